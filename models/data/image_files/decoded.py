"""Images and masks of files, decoded each time that rows of them are taken."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from normfold.contract.arrays import Array, Float32Array
from normfold.contract.errors import RawInputError
from normfold.contract.image_decoding import MAX_IMAGE_PIXELS
from normfold.contract.preprocess import ImagePreprocessing
from normfold.contract.source_card import IGNORED
from normfold.models.data.splits import IndexArray
from normfold.models.errors import DataError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")

MAX_MASK_VALUES = 2**16
"""Number of values that a mask of 16 bits can hold."""

_UNKNOWN = IGNORED - 1
"""In a table of classes: the value was in no mask when the masks were first read."""


@dataclass(frozen=True)
class DecodedImages:
    """Images of PNG and JPEG files: an array (N, channels, height, width), float32, 0 to 255, that holds no pixels."""

    files: tuple[Path, ...]
    channels: Literal[1, 3]
    height: int
    width: int
    dtype = np.dtype(np.float32)

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, channels, height, width)."""
        return (len(self.files), self.channels, self.height, self.width)

    @property
    def nbytes(self) -> int:
        """Size of all images as float32."""
        return int(np.prod(self.shape, dtype=np.float64)) * 4

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, rows: IndexArray) -> Float32Array:
        """Decode some images.

        Args:
            rows: (R,).

        Returns:
            (R, channels, height, width), float32, 0 to 255.

        Raises:
            DataError: a file cannot be read.
        """
        zeros, ones = (0.0,) * self.channels, (1.0,) * self.channels
        decoder = ImagePreprocessing(channels=self.channels, height=self.height, width=self.width, mean=zeros, std=ones)
        images = np.empty((len(rows), *self.shape[1:]), np.float32)
        for image, row in zip(images, rows, strict=True):
            image[:] = _decode_image(decoder, self.files[row])
        return images


@dataclass(frozen=True)
class DecodedMasks:
    """Masks of PNG files: an array (N, height, width) of classes, int64, with IGNORED, that holds no pixels."""

    files: tuple[Path, ...]
    images: tuple[Path, ...]
    """The image of each mask, which must have its size."""
    height: int
    width: int
    classes: tuple[int, ...] = ()
    """Class by value of a mask, up to the largest value."""
    dtype = np.dtype(np.int64)

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, height, width)."""
        return (len(self.files), self.height, self.width)

    @property
    def ndim(self) -> int:
        """3."""
        return 3

    @property
    def nbytes(self) -> int:
        """Size of all masks as int64."""
        return len(self.files) * self.height * self.width * 8

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, rows: IndexArray) -> npt.NDArray[np.int64]:
        """Decode some masks.

        Args:
            rows: (R,).

        Returns:
            (R, height, width), int64, resized to the nearest pixel.

        Raises:
            DataError: a file cannot be read, or holds a value that it did not hold before.
        """
        table = np.full(MAX_MASK_VALUES, _UNKNOWN, np.int64)
        table[: len(self.classes)] = self.classes
        masks = np.empty((len(rows), self.height, self.width), np.int64)
        for mask, row in zip(masks, rows, strict=True):
            mask[:] = table[resize_mask(read_mask(self.files[row]), self.height, self.width)]
            if (mask == _UNKNOWN).any():
                raise DataError(f"Mask {str(self.files[row])!r} has changed: it holds a value that it did not before.")
        return masks

    def with_classes(self, classes: dict[int, int]) -> DecodedMasks:
        """Return the masks with the classes of their values; every other value is unknown."""
        table = [classes.get(value, _UNKNOWN) for value in range(max(classes) + 1)]
        return replace(self, classes=tuple(table))

    def renumbered(self, numbers: IndexArray) -> DecodedMasks:
        """Return the masks with class i as class `numbers[i]`."""
        return replace(self, classes=tuple(int(numbers[one]) if one >= 0 else one for one in self.classes))

    def joined(self, other: DecodedMasks) -> DecodedMasks:
        """Return these masks and then those of another folder.

        Raises:
            DataError: one value means different classes in the two folders.
        """
        pairs = list(zip_longest(self.classes, other.classes, fillvalue=_UNKNOWN))
        for value, (one, two) in enumerate(pairs):
            if one != two and _UNKNOWN not in (one, two):
                folders = [str(masks.files[0].parent) for masks in (self, other)]
                raise DataError(f"Value {value} means one class in {folders[0]!r} and another in {folders[1]!r}.")
        merged = tuple(map(max, pairs))  # the unknown is the least number
        files, images = self.files + other.files, self.images + other.images
        return replace(self, files=files, images=images, classes=merged)


def image_size(file: Path) -> tuple[int, int]:
    """Return height and width of an image as it is shown, from its header.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        with Image.open(file, formats=("PNG", "JPEG")) as image:
            turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)  # Orientation of EXIF 2.32: rows are columns
            return (image.width, image.height) if turned else (image.height, image.width)
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(f"{str(file)!r} cannot be used: it is no readable PNG or JPEG file: {error}.") from None


def read_mask(file: Path) -> Array:
    """Read the values of a mask: indices of a palette, or grey.

    Args:
        file: PNG. RGB is read where its three channels are the same, as some tools write grey.

    Returns:
        (height, width), uint8 or uint16; of a bilevel PNG, 0 and 1.

    Raises:
        DataError: the file cannot be read, holds colours, or values over 65535.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file, formats=("PNG",)) as image:
                if image.width * image.height > MAX_IMAGE_PIXELS:
                    raise DataError(f"Mask {str(file)!r} has over {MAX_IMAGE_PIXELS:,} pixels.")
                values = np.asarray(ImageOps.exif_transpose(image))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise DataError(f"Mask {str(file)!r} has over {MAX_IMAGE_PIXELS:,} pixels.") from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise DataError(f"Mask {str(file)!r} cannot be read as PNG: {error}.") from None
    if values.ndim == 3 and values.shape[2] == 2:  # grey and alpha
        values = values[..., 0]
    if values.ndim == 3:
        if not (values[..., :1] == values[..., :3]).all():
            raise DataError(
                f"Mask {str(file)!r} holds colours; a mask holds a number for each pixel, as a PNG with a palette or "
                "in grey."
            )
        values = values[..., 0]
    if values.dtype == np.bool_:
        values = values.astype(np.uint8)
    if values.dtype not in (np.uint8, np.uint16):
        if int(values.min()) < 0 or int(values.max()) >= MAX_MASK_VALUES:
            raise DataError(f"Mask {str(file)!r} holds values outside 0 to {MAX_MASK_VALUES - 1}.")
        values = values.astype(np.uint16)
    return values


def resize_mask(values: Array, height: int, width: int) -> Array:
    """Return a mask in another size; each pixel has the value of the nearest one, as Pillow's NEAREST.

    Args:
        values: (rows, columns).
        height: of the result, in pixels.
        width: of the result, in pixels.
    """
    rows = ((np.arange(height) + 0.5) * (values.shape[0] / height)).astype(np.int64)
    columns = ((np.arange(width) + 0.5) * (values.shape[1] / width)).astype(np.int64)
    resized: Array = values[rows[:, None], columns]
    return resized


def _decode_image(decoder: ImagePreprocessing, file: Path) -> Float32Array:
    try:
        return decoder.decode_image(file.read_bytes())
    except OSError as error:
        raise DataError(f"{str(file)!r} cannot be read: {error.strerror}.") from None
    except RawInputError as error:
        raise DataError(f"{str(file)!r} cannot be used: {error}") from None
