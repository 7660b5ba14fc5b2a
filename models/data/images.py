"""Reader of a folder of image files."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from normfold.contract.errors import RawInputError
from normfold.contract.preprocess import ImagePreprocessing
from normfold.models.data.files import RawData
from normfold.models.errors import DataError, TrainingWarning

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")

MAX_IMAGE_SIDE = 4096
"""Maximum height and width, in pixels, to which the images of a folder are resized."""


def read_images(folder: Path, size: tuple[int, int] | None, channels: Literal[1, 3]) -> RawData:
    """Read a folder with a folder of PNG and JPEG files for each class; all images are held in memory.

    Args:
        folder: its folders are the classes, in alphabetical order of their names.
        size: height and width, in pixels, to which every image is resized.
        channels: 1 for grey, 3 for RGB.

    Raises:
        DataError: `size` is None or too large, the folder is missing, there are fewer than two classes, a class is
            empty, a file cannot be read, or the images do not fit into memory.
    """
    if size is None:
        raise DataError(
            "Images of a folder need one common size; give `image_size`, height and width, for example 32x32."
        )
    if not all(0 < side <= MAX_IMAGE_SIDE for side in size):
        raise DataError(f"Images can be resized to 1 to {MAX_IMAGE_SIDE} pixels a side, not to {size[0]}x{size[1]}.")
    if not folder.is_dir():
        raise DataError(f"There is no folder {str(folder)!r}.")
    classes = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if len(classes) < 2:
        found = f"only {classes[0].name!r}" if classes else "none"
        raise DataError(f"{str(folder)!r} must hold a folder for each of at least two classes; found {found}.")
    decoder = ImagePreprocessing(
        channels=channels, height=size[0], width=size[1], mean=(0.0,) * channels, std=(1.0,) * channels
    )
    files = [(index, file) for index, class_folder in enumerate(classes) for file in _list_images(class_folder)]
    try:
        images = np.empty((len(files), channels, *size), np.float32)
    except MemoryError:
        gib = len(files) * channels * size[0] * size[1] * 4 / 2**30
        raise DataError(
            f"{len(files)} images of {size[0]}x{size[1]} take {gib:.0f} GiB, more than this machine's memory; "
            "give a smaller `image_size`."
        ) from None
    for image, (_, file) in zip(images, files, strict=True):
        image[:] = _decode(decoder, file)
    labels = tuple(_class_name(class_folder) for class_folder in classes)
    return RawData(images, np.asarray([index for index, _ in files], np.int64), labels)


def _class_name(folder: Path) -> str:
    """Return a class folder's name, which must be UTF-8 for JSON."""
    try:
        folder.name.encode()
    except UnicodeEncodeError:
        raise DataError(f"The name of class folder {str(folder)!r} is not UTF-8; rename it.") from None
    return folder.name


def _list_images(folder: Path) -> list[Path]:
    entries = sorted(entry for entry in folder.iterdir() if entry.is_file() and not entry.name.startswith("."))
    files = [entry for entry in entries if entry.suffix.lower() in IMAGE_SUFFIXES]
    if not files:
        raise DataError(f"Class folder {str(folder)!r} holds no PNG or JPEG file.")
    if len(files) < len(entries):
        ignored = len(entries) - len(files)
        warnings.warn(
            f"{ignored} of {len(entries)} files in {str(folder)!r} are ignored: their suffix is not PNG's or JPEG's.",
            TrainingWarning,
            stacklevel=4,
        )
    return files


def _decode(decoder: ImagePreprocessing, file: Path) -> npt.NDArray[np.float32]:
    try:
        return decoder.decode_image(file.read_bytes())
    except OSError as error:
        raise DataError(f"{str(file)!r} cannot be read: {error.strerror}.") from None
    except RawInputError as error:
        raise DataError(f"{str(file)!r} cannot be used: {error}") from None
