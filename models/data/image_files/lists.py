"""Image files of a folder, and checks of what a folder of images needs."""

from __future__ import annotations

import warnings
from pathlib import Path

from normfold.models.data.image_files.decoded import IMAGE_SUFFIXES
from normfold.models.errors import DataError, TrainingWarning

MAX_IMAGE_SIDE = 4096
"""Maximum height and width, in pixels, to which the images of a folder are resized."""


def check_size(size: tuple[int, int] | None) -> tuple[int, int]:
    """Return the common size of the images of a folder, height and width in pixels.

    Raises:
        DataError: it is None or too large.
    """
    if size is None:
        raise DataError(
            "Images of a folder need one common size; give `image_size`, height and width, for example 32x32."
        )
    if not all(0 < side <= MAX_IMAGE_SIDE for side in size):
        raise DataError(f"Images can be resized to 1 to {MAX_IMAGE_SIDE} pixels a side, not to {size[0]}x{size[1]}.")
    return size


def list_images(folder: Path, kind: str, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> list[Path]:
    """Return the image files of a folder, in the order of their names.

    Args:
        folder: exists.
        kind: what the folder is, to begin an error.
        suffixes: of the files, in lower case.

    Raises:
        DataError: there is none.

    Warns:
        TrainingWarning: the folder holds other files, which are ignored.
    """
    entries = sorted(entry for entry in folder.iterdir() if entry.is_file() and not entry.name.startswith("."))
    files = [entry for entry in entries if entry.suffix.lower() in suffixes]
    name = "PNG or JPEG" if len(suffixes) > 1 else "PNG"
    if not files:
        raise DataError(f"{kind} {str(folder)!r} holds no {name} file.")
    if len(files) < len(entries):
        ignored = len(entries) - len(files)
        of = "PNG's or JPEG's" if len(suffixes) > 1 else "PNG's"
        warnings.warn(
            f"{ignored} of {len(entries)} files in {str(folder)!r} are ignored: their suffix is not {of}.",
            TrainingWarning,
            stacklevel=4,
        )
    return files
