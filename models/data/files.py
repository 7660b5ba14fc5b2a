"""Readers of data files: NumPy archives and tables."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from normfold.models.errors import DataError

FLOAT32_MAX = np.float64(np.finfo(np.float32).max)
"""Networks take float32: what lies beyond is infinite to them."""


@dataclass(frozen=True)
class RawData:
    """Samples in raw units and their labels, as read."""

    x: npt.NDArray[Any]
    """(N, columns), (N, channels, length) or (N, channels, height, width), finite in float32."""
    y: npt.NDArray[np.int64]
    """(N,), or masks: (N, height, width)."""
    labels: tuple[str, ...]
    """Names of the classes."""
    columns: tuple[str, ...] | None = None
    """Names of the columns of rows; None for others."""
    channels: tuple[str, ...] | None = None
    """Names of the channels of sequences; None for others."""
    value_max: float = 255.0
    """Pictures: the raw value that means full intensity."""
    background: float = 1.0
    """Pictures: intensity where one is transparent."""


def read_npz(path: Path) -> RawData:
    """Read `x` and `y` of a NumPy archive.

    x: pictures (N, C, H, W) or (N, H, W), rows (N, columns), or sequences (N, C, length), told from pictures by
    `channels`. y: (N,), integers or strings; for pictures also masks (N, H, W), with a class for each pixel.
    Optional: `labels`, the names of classes 0, 1, …; `columns`, the names of columns; `channels`, the names of the
    channels of sequences; `value_max`, the value of full intensity, otherwise 255 for uint8, 65535 for uint16, and the
    largest value found for any other dtype.

    Raises:
        DataError: missing or damaged file, arrays missing, or of wrong shape, dtype or values.
    """
    arrays = _load_arrays(path)
    x, y = _require(arrays, "x", path), _require(arrays, "y", path)
    if x.dtype.kind not in "iuf":
        raise DataError(f"Array 'x' of {str(path)!r} is of dtype {x.dtype}; it must hold real numbers.")
    if x.ndim == 0 or y.ndim not in (1, 3) or len(y) != len(x) or x.size == 0:
        raise DataError(
            f"Array 'y' of {str(path)!r} must be of shape (N,), or (N, H, W) for masks, with N rows as 'x' has, at "
            f"least one, none empty; x is {list(x.shape)}, y is {list(y.shape)}."
        )
    _check_float32(x, path)
    numbers, labels = _number_classes(y, _names(arrays, "labels", path), path)
    channels = _names(arrays, "channels", path)
    if y.ndim == 3 and (channels is not None or x.ndim < 3 or x.shape[-2:] != y.shape[1:]):
        raise DataError(
            f"Array 'y' of {str(path)!r} holds masks {list(y.shape)}, which need pictures of their height and width; "
            f"x is {list(x.shape)}."
        )
    if channels is not None:
        if x.ndim != 3 or x.shape[1] != len(channels):
            raise DataError(
                f"{str(path)!r} names {len(channels)} channels, so 'x' must be sequences (N, {len(channels)}, length); "
                f"it is {list(x.shape)}."
            )
        return RawData(x, numbers, labels, channels=channels)
    if x.ndim == 2:
        columns = _names(arrays, "columns", path) or tuple(f"x{index}" for index in range(x.shape[1]))
        if len(columns) != x.shape[1]:
            raise DataError(f"{str(path)!r} names {len(columns)} columns, but 'x' has {x.shape[1]}.")
        return RawData(x, numbers, labels, columns=columns)
    if x.ndim == 3:
        x = x[:, None]
    if x.ndim != 4 or x.shape[1] not in (1, 3):
        raise DataError(
            f"Array 'x' of {str(path)!r} must be pictures (N, H, W) or (N, C, H, W) with 1 or 3 channels, "
            f"or rows (N, columns); it is {list(arrays['x'].shape)}."
        )
    return RawData(x, numbers, labels, value_max=_full_intensity(x, arrays.get("value_max"), path))


def read_csv(path: Path, label_column: str | None) -> RawData:
    """Read a comma-separated table with a header: a label column, all others numbers.

    Args:
        path: the file, UTF-8.
        label_column: its name; None for the last column.

    Raises:
        DataError: missing file or column, or a value that is missing or no finite float32 number, with row and column.
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


def _load_arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    try:
        with path.open("rb") as file:  # opened here, since numpy leaves a damaged one open
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise DataError(f"{str(path)!r} holds one bare array; save x and y together with numpy.savez.")
            with archive:
                members: dict[str, Any] = {name: archive[name] for name in archive.files}
            # A member that is no .npy file comes as bytes.
            return {name: member for name, member in members.items() if isinstance(member, np.ndarray)}
    except DataError:
        raise
    except OSError as error:
        raise DataError(f"{str(path)!r} cannot be read: {error.strerror or error}.") from None
    except MemoryError:
        raise DataError(f"{str(path)!r} holds arrays larger than this machine's memory.") from None
    except Exception as error:  # noqa: BLE001 - numpy, zipfile and zlib raise many kinds for a damaged file
        # numpy's own words advise to load pickled objects, which could run code.
        reason = "it holds Python objects" if "pickle" in str(error) else str(error).rstrip(".") or type(error).__name__
        raise DataError(f"{str(path)!r} is no NumPy archive of plain arrays: {reason}.") from None


def _require(arrays: dict[str, npt.NDArray[Any]], name: str, path: Path) -> npt.NDArray[Any]:
    if name not in arrays:
        raise DataError(f"{str(path)!r} has no array {name!r}; it holds: {', '.join(arrays) or 'nothing'}.")
    return arrays[name]


def _check_float32(x: npt.NDArray[Any], path: Path) -> None:
    """Make sure that every value is finite as float32."""
    if x.dtype.kind != "f":  # integers of 64 bits all are
        return
    wrong = ~(np.abs(x) <= FLOAT32_MAX)  # NaN too
    if wrong.any():
        first = tuple(np.argwhere(wrong)[0].tolist())
        row, *rest = first
        column = f", column {rest[0]}" if len(rest) == 1 else ""
        raise DataError(
            f"Array 'x' of {str(path)!r} holds {x[first]} in row {row}{column} (counted from 0), "
            "which is no finite float32 number."
        )


def _names(arrays: dict[str, npt.NDArray[Any]], name: str, path: Path) -> tuple[str, ...] | None:
    """Return an optional array of names, each there once."""
    if name not in arrays:
        return None
    array = arrays[name]
    if array.ndim != 1 or array.dtype.kind not in "iuU" or len(array) == 0:
        raise DataError(
            f"Array {name!r} of {str(path)!r} must be a list of names; it is of dtype {array.dtype} and shape "
            f"{list(array.shape)}."
        )
    names = tuple(str(entry) for entry in array.tolist())
    repeated = [entry for entry in names if names.count(entry) > 1]
    if repeated:
        raise DataError(f"Array {name!r} of {str(path)!r} holds {repeated[0]!r} twice.")
    return names


def _number_classes(
    y: npt.NDArray[Any], labels: tuple[str, ...] | None, path: Path
) -> tuple[npt.NDArray[np.int64], tuple[str, ...]]:
    if labels is None:
        if y.dtype.kind not in "iuUb":
            raise DataError(f"Labels of {str(path)!r} are of dtype {y.dtype}; they must be integers or strings.")
        values, numbers = np.unique(y, return_inverse=True)
        return numbers.reshape(y.shape).astype(np.int64), tuple(str(value) for value in values.tolist())
    if y.dtype.kind not in "iu" or y.min() < 0 or y.max() >= len(labels):
        raise DataError(f"With 'labels', 'y' of {str(path)!r} must hold integers from 0 to {len(labels) - 1}.")
    return y.astype(np.int64), labels


def _full_intensity(x: npt.NDArray[Any], given: npt.NDArray[Any] | None, path: Path) -> float:
    if given is not None:
        value = float(given) if given.ndim == 0 and given.dtype.kind in "iuf" else math.nan
        if not float(np.finfo(np.float32).tiny) <= value <= FLOAT32_MAX:
            raise DataError(f"Array 'value_max' of {str(path)!r} must be one positive float32 number.")
        return value
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
    if not abs(value) <= FLOAT32_MAX:  # NaN too
        raise DataError(
            f"Row {row} of {str(path)!r} has {cell!r} in column {column!r}, which is no finite float32 number."
        )
    return value
