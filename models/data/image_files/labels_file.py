"""Reader of a folder of image files with their labels in `labels.csv`, whose first column names the files.

file,labels             one further column of text: labels with semicolons between, none for an empty cell
a.png,cat;dog           (multi-label), or one label each (classification)

file,cat,dog            several further columns: 0 or 1 for each label (multi-label), or values to predict
a.png,1,1               (regression); one further column of numbers with fractions is a value to predict, too
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Literal

import numpy as np

from normfold.models.data.files import RawData
from normfold.models.data.image_files.decoded import IMAGE_SUFFIXES, DecodedImages
from normfold.models.data.image_files.lists import check_size
from normfold.models.data.targets import TargetOptions, Targets, read_targets, read_text_targets
from normfold.models.errors import DataError

LABELS = "labels.csv"
SEPARATOR = ";"


def has_labels(folder: Path) -> bool:
    """Return whether a folder holds `labels.csv`."""
    return (folder / LABELS).is_file()


def read_labelled_images(
    folder: Path, size: tuple[int, int] | None, channels: Literal[1, 3], options: TargetOptions
) -> RawData:
    """Read a folder of images and `labels.csv`; the images are decoded when they are taken.

    Args:
        folder: holds the table; files are named from it.
        size: height and width, in pixels, to which every image is resized.
        channels: 1 for grey, 3 for RGB.
        options: task.

    Raises:
        DataError: `size` is None or too large; the table cannot be read, or a row of it is wrong; or a file is missing
            or named twice.
    """
    height, width = check_size(size)
    path = folder / LABELS
    header, rows = _read(path)
    files = tuple(_find(folder, cells[0], number) for number, cells in rows)
    numbers: dict[Path, int] = {}
    for file, (number, _) in zip(files, rows, strict=True):
        if file in numbers:
            raise DataError(f"Row {number} of {str(path)!r} names {file.name!r} again, as row {numbers[file]} does.")
        numbers[file] = number
    texts = [[cell.strip() for cell in cells[1:]] for _, cells in rows]
    y, labels = _targets(texts, tuple(header[1:]), path, options)
    return RawData(DecodedImages(files, channels, height, width), y, labels)


def _read(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Return the header, and the number and cells of each row."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            lines = [(reader.line_num, cells) for cells in reader if cells]
    except OSError as error:
        raise DataError(f"{str(path)!r} cannot be read: {error.strerror}.") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{str(path)!r} is not a comma-separated UTF-8 table: {error}.") from None
    header = [name.strip() for name in lines[0][1]] if lines else []
    if len(header) < 2 or len(set(header)) < len(header):
        raise DataError(f"{str(path)!r} needs a header of a column of files and columns of labels, each name once.")
    if len(lines) == 1:
        raise DataError(f"{str(path)!r} has a header and no rows.")
    for number, cells in lines:
        if len(cells) != len(header):
            raise DataError(f"Row {number} of {str(path)!r} has {len(cells)} values, the header {len(header)}.")
    return header, lines[1:]


def _find(folder: Path, name: str, number: int) -> Path:
    file = folder / name.strip()
    if file.suffix.lower() not in IMAGE_SUFFIXES:
        raise DataError(f"Row {number} of {str(folder / LABELS)!r} names {name!r}, which is no PNG or JPEG file.")
    if not file.is_file():
        raise DataError(f"Row {number} of {str(folder / LABELS)!r} names {name!r}, and there is no such file.")
    return file


def _targets(
    texts: list[list[str]], names: tuple[str, ...], path: Path, options: TargetOptions
) -> tuple[Targets, tuple[str, ...]]:
    if len(names) == 1 and _holds_lists(texts, options):
        return _listed([row[0] for row in texts], path)
    for row, cells in enumerate(texts):
        if not all(cells):
            raise DataError(
                f"Sample {row} (counted from 0) of {str(path)!r} has no value in column {names[cells.index('')]!r}."
            )
    return read_text_targets(np.asarray(texts), names, path, options)


def _holds_lists(texts: list[list[str]], options: TargetOptions) -> bool:
    """Return whether the cells of one column are lists of labels."""
    if options.task is not None:
        return options.task == "multi-label"
    return any(SEPARATOR in text or not text for (text,) in texts)


def _listed(texts: list[str], path: Path) -> tuple[Targets, tuple[str, ...]]:
    """Return the targets of lists of labels, in the alphabetical order of the labels."""
    lists = [{part.strip() for part in text.split(SEPARATOR)} - {""} for text in texts]
    labels = tuple(sorted(set().union(*lists)))
    if not labels:
        raise DataError(f"{str(path)!r} has no labels.")
    flags = np.array([[label in one for label in labels] for one in lists])
    return read_targets(flags, labels, path, TargetOptions("multi-label"))
