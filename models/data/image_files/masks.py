"""Reader of a folder with a folder `images` of image files, and a folder `masks` of their masks.

    images/street.jpg     masks/street.png      an image and its mask have one name before the suffix, and one size
    classes.txt           optional: the name of class 0, 1, … on each line

A mask is a PNG with a palette, whose indices count, or in grey.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import numpy as np

from normfold.contract.source_card import IGNORED
from normfold.models.data.classes import warn_of_fill, warn_of_unused_index
from normfold.models.data.files import RawData
from normfold.models.data.image_files.decoded import (
    DecodedImages,
    DecodedMasks,
    image_size,
    read_mask,
    resize_mask,
)
from normfold.models.data.image_files.lists import check_size, list_images
from normfold.models.data.loading.parallel import map_in_order
from normfold.models.errors import DataError, TrainingWarning

IMAGES, MASKS, CLASSES = "images", "masks", "classes.txt"


def has_masks(folder: Path) -> bool:
    """Return whether a folder is one of images and masks: it holds `images` and `masks`, and no other folder."""
    if not folder.is_dir():
        return False
    return {one.name for one in folder.iterdir() if one.is_dir() and not one.name.startswith(".")} == {IMAGES, MASKS}


def read_masks(
    folder: Path,
    size: tuple[int, int] | None,
    channels: Literal[1, 3],
    ignore_index: int | None = None,
    workers: int = 0,
) -> RawData:
    """Read a folder of images and their masks; both are decoded when they are taken, and each mask once now.

    Args:
        folder: holds `images`, `masks` and perhaps `classes.txt`.
        size: height and width, in pixels, to which every image and mask is resized.
        channels: of the images: 1 for grey, 3 for RGB.
        ignore_index: value in masks of pixels without a class.
        workers: number of processes that decode.

    Returns:
        Images, masks, and the names of the classes: those of `classes.txt`, or the values that the masks hold.

    Raises:
        DataError: `size` is None or too large; a folder or file is missing or empty, cannot be read, or has another
            size than its image; or a mask holds only `ignore_index`, or a value without a name in `classes.txt`.

    Warns:
        TrainingWarning: see `number_classes`; or a mask has no image.
    """
    height, width = check_size(size)
    for name in (IMAGES, MASKS):
        if not (folder / name).is_dir():
            raise DataError(f"There is no folder {str(folder / name)!r}; masks:DIR needs `images` and `masks` in it.")
    images, files = _pair(folder)
    masks = DecodedMasks(files, images, height, width)
    scanned = list(map_in_order(_Scan(masks, ignore_index), range(len(files)), workers))
    found = sorted(set().union(*scanned))
    if ignore_index is None:
        warn_of_fill(np.asarray(found), folder / MASKS)
    elif ignore_index not in found:
        warn_of_unused_index(ignore_index, folder / MASKS)
    classes, labels = _classes(folder, found, scanned, files, ignore_index)
    x = DecodedImages(images, channels, height, width)
    return RawData(x, masks.with_classes(classes), labels)


class _Scan:
    """Reads one mask, and returns the values that it holds; a class, so that it can be sent to another process."""

    def __init__(self, masks: DecodedMasks, ignore_index: int | None) -> None:
        self._masks, self._ignore_index = masks, ignore_index

    def __call__(self, index: int) -> set[int]:
        file, image = self._masks.files[index], self._masks.images[index]
        values = read_mask(file)
        shown = image_size(image)
        if values.shape != shown:
            size = "x".join(map(str, values.shape))
            raise DataError(
                f"Mask {str(file)!r} is of {size} pixels, its image {image.name!r} of {shown[0]}x{shown[1]}."
            )
        if self._ignore_index is not None:
            kept = resize_mask(values, self._masks.height, self._masks.width)
            if (kept == self._ignore_index).all():
                raise DataError(
                    f"Mask {str(file)!r} holds only {self._ignore_index}, the `ignore_index`; leave the image out."
                )
        return set(np.unique(values).tolist())


def _pair(folder: Path) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """Return images and masks of the same names, in the order of the names."""
    images = _by_stem(list_images(folder / IMAGES, "Folder"))
    masks = _by_stem(list_images(folder / MASKS, "Folder", (".png",)))
    without = sorted(images.keys() - masks.keys())
    if without:
        others = f", nor have {len(without) - 1} other images" if len(without) > 1 else ""
        raise DataError(
            f"Image {str(images[without[0]])!r} has no mask {str(folder / MASKS / without[0]) + '.png'!r}{others}."
        )
    unused = sorted(masks.keys() - images.keys())
    if unused:
        warnings.warn(
            f"{len(unused)} of {len(masks)} masks in {str(folder / MASKS)!r} have no image and are ignored, "
            f"{masks[unused[0]].name!r} for example.",
            TrainingWarning,
            stacklevel=4,
        )
    stems = sorted(images)
    return tuple(images[stem] for stem in stems), tuple(masks[stem] for stem in stems)


def _by_stem(files: Iterable[Path]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for file in files:
        if file.stem in found:
            raise DataError(f"{str(file)!r} and {found[file.stem].name!r} have one name before the suffix; rename one.")
        found[file.stem] = file
    return found


def _classes(
    folder: Path, found: list[int], scanned: list[set[int]], files: tuple[Path, ...], ignore_index: int | None
) -> tuple[dict[int, int], tuple[str, ...]]:
    """Return the class of each value, and the names of the classes."""
    known = [value for value in found if value != ignore_index]
    ignored = {} if ignore_index is None else {ignore_index: IGNORED}
    ignored = {value: number for value, number in ignored.items() if value in found}
    names = _read_names(folder / CLASSES)
    if names is None:
        return {value: number for number, value in enumerate(known)} | ignored, tuple(map(str, known))
    unnamed = [value for value in known if value >= len(names)]
    if unnamed:
        file = next(file for file, values in zip(files, scanned, strict=True) if unnamed[0] in values)
        remedy = "; `ignore_index` leaves out the pixels of one value" if ignore_index is None else ""
        raise DataError(
            f"Mask {str(file)!r} holds {unnamed[0]}, and {str(folder / CLASSES)!r} names the classes 0 to "
            f"{len(names) - 1}{remedy}."
        )
    return {value: value for value in range(len(names))} | ignored, names


def _read_names(path: Path) -> tuple[str, ...] | None:
    """Return the lines of `classes.txt`; None if there is none."""
    if not path.exists():
        return None
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise DataError(f"{str(path)!r} is not UTF-8.") from None
    except OSError as error:
        raise DataError(f"{str(path)!r} cannot be read: {error.strerror}.") from None
    names = [line.strip() for line in lines]
    while names and not names[-1]:
        names.pop()
    if not all(names) or len(set(names)) != len(names) or not names:
        raise DataError(f"{str(path)!r} must hold the name of a class on each line, each once.")
    return tuple(names)
