"""Readers of data files: NumPy archives, tables, and folders of pictures."""

from __future__ import annotations

import csv
import math
import warnings
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from contract.preprocess import ImagePreprocessing, RawInputError
from models.errors import DataError, TrainingWarning

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg")


@dataclass(frozen=True)
class RawData:
    """Samples in raw units and their labels, as read."""

    x: npt.NDArray[Any]
    """(N, columns) or (N, channels, height, width), finite."""
    y: npt.NDArray[np.int64]
    """(N,)"""
    labels: tuple[str, ...]
    """Names of the classes."""
    columns: tuple[str, ...] | None = None
    """Names of the columns of rows; None for pictures."""
    value_max: float = 255.0
    """Pictures: the raw value that means full intensity."""
    background: float = 1.0
    """Pictures: intensity where one is transparent."""


def read_npz(path: Path) -> RawData:
    """Read `x` and `y` of a NumPy archive.

    x: pictures (N, C, H, W) or (N, H, W), or rows (N, columns). y: (N,), integers or strings.
    Optional: `labels`, the names of classes 0, 1, …; `columns`, the names of columns; `value_max`, the value of full
    intensity, otherwise 255 for uint8, 65535 for uint16, and the largest value found for any other dtype.

    Raises:
        DataError: missing or damaged file, arrays missing, or of wrong shape, dtype or values.
    """
    arrays = _load_arrays(path)
    x, y = _require(arrays, "x", path), _require(arrays, "y", path)
    if x.dtype.kind not in "iuf":
        raise DataError(f"Array 'x' of {str(path)!r} is of dtype {x.dtype}; it must hold real numbers.")
    if y.ndim != 1 or len(y) != len(x) or len(y) == 0:
        raise DataError(
            f"Array 'y' of {str(path)!r} must be of shape (N,) with N rows as 'x' has, at least one; "
            f"x is {list(x.shape)}, y is {list(y.shape)}."
        )
    if not np.isfinite(x).all():
        row = int(np.argwhere(~np.isfinite(x))[0][0])
        raise DataError(f"Array 'x' of {str(path)!r} holds NaN or infinity, first in row {row}.")
    numbers, labels = _number_classes(y, arrays.get("labels"), path)
    if x.ndim == 2:
        names = arrays["columns"].tolist() if "columns" in arrays else [f"x{index}" for index in range(x.shape[1])]
        if len(names) != x.shape[1]:
            raise DataError(f"{str(path)!r} names {len(names)} columns, but 'x' has {x.shape[1]}.")
        return RawData(x, numbers, labels, columns=tuple(str(name) for name in names))
    if x.ndim == 3:
        x = x[:, None]
    if x.ndim != 4 or x.shape[1] not in (1, 3):
        raise DataError(
            f"Array 'x' of {str(path)!r} must be pictures (N, H, W) or (N, C, H, W) with 1 or 3 channels, "
            f"or rows (N, columns); it is {list(arrays['x'].shape)}."
        )
    return RawData(x, numbers, labels, value_max=_full_intensity(x, arrays.get("value_max")))


def read_csv(path: Path, label_column: str | None) -> RawData:
    """Read a comma-separated table with a header: a label column, all others numbers.

    Args:
        path: the file, UTF-8.
        label_column: its name; None for the last column.

    Raises:
        DataError: missing file or column, or a value that is missing or not a finite number, with row and column.
    """
    lines = _csv_lines(path)
    _, header = next(lines, (0, []))
    if len(header) < 2 or len(set(header)) != len(header):
        raise DataError(f"{str(path)!r} needs a header of at least two columns with different names, got {header}.")
    label_column = header[-1] if label_column is None else label_column
    if label_column not in header:
        raise DataError(f"{str(path)!r} has no column {label_column!r}; its columns are: {', '.join(header)}.")
    position = header.index(label_column)
    rows: list[list[float]] = []
    names: list[str] = []
    for number, cells in lines:
        if len(cells) != len(header):
            raise DataError(f"Row {number} of {str(path)!r} has {len(cells)} values, the header {len(header)}.")
        names.append(cells[position].strip())
        if not names[-1]:
            raise DataError(f"Row {number} of {str(path)!r} has no value in column {label_column!r}.")
        rows.append(
            [
                _read_number(cell, number, column, path)
                for column, cell in zip(header, cells, strict=True)
                if column != label_column
            ]
        )
    if not rows:
        raise DataError(f"{str(path)!r} has a header and no rows.")
    numbers, labels = _number_classes(np.asarray(names), None, path)
    columns = tuple(column for column in header if column != label_column)
    return RawData(np.asarray(rows, np.float64), numbers, labels, columns=columns)


def read_images(folder: Path, size: tuple[int, int] | None, channels: Literal[1, 3]) -> RawData:
    """Read a folder that holds a folder of PNG and JPEG files for each class; all are held in memory.

    Args:
        folder: the outer folder; the inner ones give the names of the classes, in alphabetical order.
        size: height and width that every picture is brought to.
        channels: 1 for grey, 3 for RGB.

    Raises:
        DataError: no size, no such folder, fewer than two classes, an empty class, or a file that cannot be read.
    """
    if size is None:
        raise DataError("Pictures of a folder need one common size; give --image-size HEIGHTxWIDTH, for example 32x32.")
    if not folder.is_dir():
        raise DataError(f"There is no folder {str(folder)!r}.")
    classes = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if len(classes) < 2:
        found = f"only {classes[0].name!r}" if classes else "none"
        raise DataError(f"{str(folder)!r} must hold a folder for each of at least two classes; found {found}.")
    decoder = ImagePreprocessing(
        channels=channels, height=size[0], width=size[1], mean=(0.0,) * channels, std=(1.0,) * channels
    )
    pictures, numbers = [], []
    for number, inner in enumerate(classes):
        files = _list_pictures(inner)
        pictures += [_decode(decoder, file) for file in files]
        numbers += [number] * len(files)
    return RawData(np.stack(pictures), np.asarray(numbers, np.int64), tuple(inner.name for inner in classes))


def _load_arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    try:
        with path.open("rb") as file:  # opened here, since numpy leaves a damaged one open
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise DataError(f"{str(path)!r} holds one bare array; save x and y together with numpy.savez.")
            with archive:
                return {name: archive[name] for name in archive.files}
    except OSError as error:
        raise DataError(f"{str(path)!r} cannot be read: {error.strerror or error}.") from None
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{str(path)!r} is no NumPy archive of plain arrays: {error}.") from None


def _require(arrays: dict[str, npt.NDArray[Any]], name: str, path: Path) -> npt.NDArray[Any]:
    if name not in arrays:
        raise DataError(f"{str(path)!r} has no array {name!r}; it holds: {', '.join(arrays) or 'nothing'}.")
    return arrays[name]


def _number_classes(
    y: npt.NDArray[Any], labels: npt.NDArray[Any] | None, path: Path
) -> tuple[npt.NDArray[np.int64], tuple[str, ...]]:
    if labels is None:
        if y.dtype.kind not in "iuUb":
            raise DataError(f"Labels of {str(path)!r} are of dtype {y.dtype}; they must be integers or strings.")
        values, numbers = np.unique(y, return_inverse=True)
        return numbers.astype(np.int64), tuple(str(value) for value in values.tolist())
    names = tuple(str(name) for name in labels.tolist())
    if y.dtype.kind not in "iu" or y.min() < 0 or y.max() >= len(names):
        raise DataError(f"With 'labels', 'y' of {str(path)!r} must hold integers from 0 to {len(names) - 1}.")
    return y.astype(np.int64), names


def _full_intensity(x: npt.NDArray[Any], given: npt.NDArray[Any] | None) -> float:
    if given is not None:
        return float(given)
    if x.dtype in (np.uint8, np.uint16):
        return float(np.iinfo(x.dtype).max)
    largest = float(x.max())
    return largest if largest > 0 else 1.0


def _csv_lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the number of each line, from 1, and its cells; lines that are blank are left out."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            for cells in reader:
                if cells:
                    yield reader.line_num, cells
    except OSError as error:
        raise DataError(f"{str(path)!r} cannot be read: {error.strerror}.") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{str(path)!r} is no comma-separated UTF-8 table: {error}.") from None


def _read_number(cell: str, row: int, column: str, path: Path) -> float:
    if not cell.strip():
        raise DataError(f"Row {row} of {str(path)!r} has no value in column {column!r}.")
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"Row {row} of {str(path)!r} has {cell!r} in column {column!r}, which is no finite number.")
    return value


def _list_pictures(folder: Path) -> list[Path]:
    entries = sorted(entry for entry in folder.iterdir() if entry.is_file() and not entry.name.startswith("."))
    files = [entry for entry in entries if entry.suffix.lower() in PICTURE_SUFFIXES]
    if not files:
        raise DataError(f"Class folder {str(folder)!r} holds no PNG or JPEG file.")
    if len(files) < len(entries):
        left_out = len(entries) - len(files)
        warnings.warn(
            f"{left_out} of {len(entries)} files in {str(folder)!r} are left out: neither PNG nor JPEG by name.",
            TrainingWarning,
            stacklevel=4,
        )
    return files


def _decode(decoder: ImagePreprocessing, file: Path) -> npt.NDArray[np.float32]:
    try:
        return decoder.decode_picture(file.read_bytes())
    except OSError as error:
        raise DataError(f"{str(file)!r} cannot be read: {error.strerror}.") from None
    except RawInputError as error:
        raise DataError(f"{str(file)!r} cannot be used: {error}") from None
