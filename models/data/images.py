"""Reader of a folder with a folder of image files for each class."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from normfold.models.data.files import RawData
from normfold.models.data.image_files.decoded import DecodedImages
from normfold.models.data.image_files.lists import check_size, list_images
from normfold.models.errors import DataError


def read_images(folder: Path, size: tuple[int, int] | None, channels: Literal[1, 3], min_classes: int = 2) -> RawData:
    """Read a folder with a folder of PNG and JPEG files for each class; the images are decoded when they are taken.

    Args:
        folder: its folders are the classes, in alphabetical order of their names.
        size: height and width, in pixels, to which every image is resized.
        channels: 1 for grey, 3 for RGB.
        min_classes: number of classes that the folder needs.

    Raises:
        DataError: `size` is None or too large, the folder is missing, there are too few classes, or a class is empty.
    """
    height, width = check_size(size)
    if not folder.is_dir():
        raise DataError(f"There is no folder {str(folder)!r}.")
    classes = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if len(classes) < min_classes:
        found = f"only {classes[0].name!r}" if classes else "none"
        needed = "each of at least two classes" if min_classes == 2 else "each class"
        raise DataError(f"{str(folder)!r} must hold a folder for {needed}; found {found}.")
    files = [(index, file) for index, one in enumerate(classes) for file in list_images(one, "Class folder")]
    images = DecodedImages(tuple(file for _, file in files), channels, height, width)
    labels = tuple(_class_name(class_folder) for class_folder in classes)
    return RawData(images, np.asarray([index for index, _ in files], np.int64), labels)


def _class_name(folder: Path) -> str:
    """Return a class folder's name, which must be UTF-8 for JSON."""
    try:
        folder.name.encode()
    except UnicodeEncodeError:
        raise DataError(f"The name of class folder {str(folder)!r} is not UTF-8; rename it.") from None
    return folder.name
