"""From a raw input to the network's tensor: one implementation for training, serving and adapting.

A raw input is what a person has: pixels of a picture, a row of a table, or a sequence of measurements in their own
units. Two steps lead from it to a tensor, and both are recorded in the manifest:

    decode       picture bytes or nested lists  ->  array of one sample, in raw units
    standardise  raw units                      ->  (raw / value_max - mean) / std     (pictures)
                                                    (raw - mean) / std                 (rows, sequences)

The mean and standard deviation are those of the training split alone.
"""

from __future__ import annotations

import io
import math
import struct
import zlib
from collections.abc import Sequence
from itertools import chain
from typing import Annotated, Any, Literal, Self

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError
from pydantic import BaseModel, ConfigDict, Field, model_validator

from normfold.contract.errors import InputError

FloatArray = npt.NDArray[np.float32]
RowArray = npt.NDArray[np.float64]

MAX_IMAGE_PIXELS = 50_000_000
"""Pictures with more pixels are refused before they are decoded (a decompression bomb is small on disk)."""

_SIGNATURES = {"PNG": b"\x89PNG\r\n\x1a\n", "JPEG": b"\xff\xd8\xff"}
"""The first bytes of a file, by its kind."""


class RawInputError(InputError):
    """A raw input is not what the network's preprocessing takes."""


class ImagePreprocessing(BaseModel):
    """A picture of fixed size, as float32 of shape (channels, height, width)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["image"] = "image"
    channels: Literal[1, 3] = Field(description="1 for grey, 3 for RGB.")
    height: int = Field(gt=0, description="Pixels.")
    width: int = Field(gt=0, description="Pixels.")
    value_max: float = Field(
        default=255.0, gt=0, allow_inf_nan=False, description="The raw value that means full intensity."
    )
    mean: tuple[float, ...] = Field(description="Per channel, of raw / value_max, over the training split.")
    std: tuple[float, ...] = Field(description="Per channel, of raw / value_max, over the training split.")
    resize: Literal["stretch", "crop"] = Field(
        default="stretch", description="Other sizes: stretched, or scaled to cover and cut at the centre."
    )
    background: float = Field(
        default=1.0, ge=0, le=1, description="Intensity, of full, that shows where a picture is transparent."
    )

    @model_validator(mode="after")
    def _check_channels(self) -> Self:
        _check_statistics(self.mean, self.std, self.channels, "channels")
        return self

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one sample: (channels, height, width)."""
        return (self.channels, self.height, self.width)

    def decode_picture(self, data: bytes, max_pixels: int = MAX_IMAGE_PIXELS) -> FloatArray:
        """Decode a PNG or JPEG into raw units.

        EXIF rotation is applied, palettes and 16-bit grey are understood, transparency is laid on `background`.

        Args:
            data: the file's bytes.
            max_pixels: pictures with more are refused from their header, before they are decoded.

        Returns:
            float32 of shape (channels, height, width), in [0, value_max].

        Raises:
            RawInputError: the bytes are no readable PNG or JPEG, or hold more than `max_pixels`.
        """
        picture = _flatten_transparency(_open_picture(data, max_pixels), self.background)
        # One plane at a time is widened to float, so that a large picture never stands in memory as floats three times.
        planes, full = _split_planes(picture, self.channels)
        resized = [_resize(plane.convert("F"), self.height, self.width, self.resize) for plane in planes]
        return np.stack(resized) * np.float32(self.value_max / full)

    def decode(self, instance: Any) -> FloatArray:
        """Read one picture given as nested lists of raw values.

        Args:
            instance: numbers nested as (channels, height, width); a grey picture also as (height, width).

        Returns:
            float32 of shape (channels, height, width), in [0, value_max].

        Raises:
            RawInputError: not numbers, not rectangular, not finite, another shape, or a value outside [0, value_max]:
                of a picture in other units the network knows nothing, and would answer as surely as ever.
        """
        raw = _to_finite_array(instance)
        if self.channels == 1 and raw.shape == (self.height, self.width):
            raw = raw[None]
        if raw.shape != self.sample_shape:
            grey = f" or {[self.height, self.width]}" if self.channels == 1 else ""
            raise RawInputError(
                f"Expected a picture of shape {list(self.sample_shape)}{grey}, got {_show_shape(raw.shape)}."
            )
        array = raw.astype(np.float32)
        outside = raw[(array < 0) | (array > np.float32(self.value_max))]
        if outside.size:
            raise RawInputError(
                f"The value {outside[0]:.9g} is outside the range of the picture's values, 0 to {self.value_max:.9g}."
            )
        return array

    def standardise(self, raw: npt.NDArray[Any]) -> FloatArray:
        """Turn raw units into the network's tensor: (raw / value_max - mean) / std.

        Args:
            raw: (..., channels, height, width), any real dtype, in raw units.

        Returns:
            float32 of the same shape; computed in float32, so that every caller gets the same bits.
        """
        shape = (self.channels, 1, 1)
        mean = np.asarray(self.mean, np.float32).reshape(shape)
        std = np.asarray(self.std, np.float32).reshape(shape)
        return (np.asarray(raw, np.float32) / np.float32(self.value_max) - mean) / std

    def to_pixels(self, raw: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
        """Turn raw units into 8-bit pixels, for a network that standardises them itself.

        Args:
            raw: (..., channels, height, width), any real dtype, from 0 to value_max.

        Returns:
            uint8 of the same shape: 255 at full intensity, rounded to the nearest.
        """
        return np.rint(np.asarray(raw, np.float64) * (255 / self.value_max)).astype(np.uint8)


class RowPreprocessing(BaseModel):
    """A row of named numeric columns, as float32 of shape (columns,)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["row"] = "row"
    columns: tuple[str, ...] = Field(min_length=1, description="Names, in the network's order.")
    mean: tuple[float, ...] = Field(description="Per column, over the training split.")
    std: tuple[float, ...] = Field(description="Per column, over the training split.")

    @model_validator(mode="after")
    def _check_columns(self) -> Self:
        if len(set(self.columns)) != len(self.columns):
            raise ValueError("column names repeat")
        _check_statistics(self.mean, self.std, len(self.columns), "columns")
        return self

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one sample: (columns,)."""
        return (len(self.columns),)

    def decode(self, instance: Any) -> RowArray:
        """Read one row, given as a list in column order or as an object keyed by column.

        Returns:
            float64 of shape (columns,), in raw units: float32 would merge large numbers that lie close together.

        Raises:
            RawInputError: a column is missing or unknown, or a value is not a finite number.
        """
        array = _to_finite_array(_in_order(instance, self.columns, "row", "columns"))
        if array.shape != self.sample_shape:
            raise RawInputError(f"Expected a row of {len(self.columns)} numbers, got {_show_shape(array.shape)}.")
        return array

    def standardise(self, raw: npt.NDArray[Any]) -> FloatArray:
        """Turn raw units into the network's tensor: (raw - mean) / std.

        Args:
            raw: (..., columns), any real dtype, in raw units.

        Returns:
            float32 of the same shape; computed in float64 (columns may be large numbers close together), rounded once.
        """
        mean, std = np.asarray(self.mean, np.float64), np.asarray(self.std, np.float64)
        return ((np.asarray(raw, np.float64) - mean) / std).astype(np.float32)


class SequencePreprocessing(BaseModel):
    """Several channels measured over time, as float32 of shape (channels, length)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["sequence"] = "sequence"
    channels: tuple[str, ...] = Field(min_length=1, description="Names, in the network's order.")
    length: int = Field(gt=0, description="Measurements of each channel.")
    mean: tuple[float, ...] = Field(description="Per channel, over the training split.")
    std: tuple[float, ...] = Field(description="Per channel, over the training split.")

    @model_validator(mode="after")
    def _check_channels(self) -> Self:
        if len(set(self.channels)) != len(self.channels):
            raise ValueError("channel names repeat")
        _check_statistics(self.mean, self.std, len(self.channels), "channels")
        return self

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one sample: (channels, length)."""
        return (len(self.channels), self.length)

    def decode(self, instance: Any) -> RowArray:
        """Read one sequence, given as a list for each channel, in their order, or as an object keyed by channel.

        Returns:
            float64 of shape (channels, length), in raw units.

        Raises:
            RawInputError: a channel is missing or unknown, of another length, or a value is not a finite number.
        """
        array = _to_finite_array(_in_order(instance, self.channels, "sequence", "channels"))
        if array.shape != self.sample_shape:
            raise RawInputError(
                f"Expected a sequence of {len(self.channels)} channels of {self.length} numbers, "
                f"got {_show_shape(array.shape)}."
            )
        return array

    def standardise(self, raw: npt.NDArray[Any]) -> FloatArray:
        """Turn raw units into the network's tensor: (raw - mean) / std.

        Args:
            raw: (..., channels, length), any real dtype, in raw units.

        Returns:
            float32 of the same shape; computed in float64, rounded once.
        """
        mean, std = (np.asarray(values, np.float64)[:, None] for values in (self.mean, self.std))
        return ((np.asarray(raw, np.float64) - mean) / std).astype(np.float32)


Preprocessing = Annotated[ImagePreprocessing | RowPreprocessing | SequencePreprocessing, Field(discriminator="kind")]


def _in_order(instance: Any, names: tuple[str, ...], what: str, parts: str) -> Any:
    """Return the values of an object in the order of their names; anything else as it is."""
    if not isinstance(instance, dict):
        return instance
    missing = [name for name in names if name not in instance]
    unknown = [name for name in instance if name not in names]
    if missing or unknown:
        lacks = f"lacks the {parts} {missing}" if missing else ""
        has = f"has unknown {parts} {unknown}" if unknown else ""
        raise RawInputError(f"The {what} {' and '.join(filter(None, (lacks, has)))}.")
    return [instance[name] for name in names]


def _check_statistics(mean: tuple[float, ...], std: tuple[float, ...], count: int, what: str) -> None:
    if len(mean) != count or len(std) != count:
        raise ValueError(f"mean and std need one value for each of the {count} {what}")
    if not all(map(math.isfinite, mean)) or not all(math.isfinite(value) and value > 0 for value in std):
        raise ValueError("mean must be finite and std positive")


def _show_shape(shape: tuple[int, ...]) -> str:
    return f"shape {list(shape)}" if shape else "a single number"


def _to_finite_array(instance: Any) -> RowArray:
    """Return nested numbers as float64, each finite as float32 too; true and false are no numbers."""
    try:
        array = np.asarray(instance)
    except ValueError:
        raise RawInputError("The values are not nested evenly: rows differ in length.") from None
    if array.dtype.kind not in "iuf" or (isinstance(instance, list) and _holds_booleans(instance, array.ndim)):
        raise RawInputError("The values are not all numbers.")
    array = array.astype(np.float64)
    if not (np.abs(array) <= np.finfo(np.float32).max).all():  # false for NaN too
        raise RawInputError("The values are not all finite float32 numbers.")
    return array


def _holds_booleans(nested: list[Any], depth: int) -> bool:
    """Whether a boolean is among the numbers: numpy would read a mixed list as numbers."""
    for _ in range(depth - 1):
        nested = list(chain.from_iterable(nested))
    return not {bool, np.bool_}.isdisjoint(map(type, nested))


def _open_picture(data: bytes, max_pixels: int) -> Image.Image:
    try:
        picture = Image.open(io.BytesIO(data), formats=("PNG", "JPEG"))
        if picture.width * picture.height > max_pixels:
            size = f"{picture.width} × {picture.height}"
            raise RawInputError(f"The picture has {size} pixels, over the limit of {max_pixels:,}.")
        picture.load()
        return ImageOps.exif_transpose(picture)
    except UnidentifiedImageError:
        for kind, signature in _SIGNATURES.items():
            if data.startswith(signature):
                raise RawInputError(f"The picture is damaged: it begins as a {kind} file and cannot be read.") from None
        raise RawInputError("The picture is neither a PNG nor a JPEG file.") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise RawInputError(f"The picture has more pixels than the limit of {max_pixels:,}.") from None
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error) as error:
        raise RawInputError(f"The picture is damaged: {str(error).rstrip('.')}.") from None


def _flatten_transparency(picture: Image.Image, background: float) -> Image.Image:
    """Lay a picture with transparency on a grey of the given intensity; return others as they are.

    Pillow cannot blend 16-bit grey, so a 16-bit picture's transparent colour (rare) shows as it is stored.
    """
    if picture.mode.startswith("I") or not picture.has_transparency_data:
        return picture
    opaque = Image.new("RGBA", picture.size, (round(255 * background),) * 3 + (255,))
    opaque.alpha_composite(picture.convert("RGBA"))
    return opaque


def _split_planes(picture: Image.Image, channels: int) -> tuple[Sequence[Image.Image], float]:
    """Return the picture's planes and the value that is full intensity in them."""
    if picture.mode.startswith("I"):  # 16-bit grey
        return [picture] * channels, 65535.0
    return picture.convert("L" if channels == 1 else "RGB").split(), 255.0


def _resize(plane: Image.Image, height: int, width: int, how: str) -> FloatArray:
    if plane.size != (width, height):
        size = (width, height)
        if how == "crop":
            plane = ImageOps.fit(plane, size, Image.Resampling.BILINEAR)
        else:
            plane = plane.resize(size, Image.Resampling.BILINEAR)
    return np.asarray(plane, np.float32)
