"""From a raw input to the network's tensor: one implementation for training, serving and adapting.

A raw input is an image, a row of a table, or a sequence of measurements, in its own units. Two steps lead to a tensor;
the manifest records the parameters of both:

    decode       image file or nested lists  ->  array of one sample, in raw units
    standardise  raw units                   ->  (raw / value_max - mean) / std     (images)
                                                 (raw - mean) / std                 (rows, sequences)
                                                 see contract.tables.columns        (rows with texts or missing values)

Mean and standard deviation are those of the training split.
"""

from __future__ import annotations

import math
from itertools import chain
from numbers import Real
from typing import Annotated, Any, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from normfold.contract.arrays import Array, Float32Array, Float64Array
from normfold.contract.errors import RawInputError
from normfold.contract.image_decoding import MAX_IMAGE_PIXELS, decode_planes
from normfold.contract.tables.preprocessing import TablePreprocessing
from normfold.contract.tables.values import FLOAT32_MAX, show


class ImagePreprocessing(BaseModel):
    """Preprocessing of images to one size: float32 tensors of shape (channels, height, width)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["image"] = "image"
    channels: Literal[1, 3] = Field(description="1 for grey, 3 for RGB.")
    height: int = Field(gt=0, description="Pixels.")
    width: int = Field(gt=0, description="Pixels.")
    value_max: float = Field(default=255.0, gt=0, allow_inf_nan=False, description="The raw value of full intensity.")
    mean: tuple[float, ...] = Field(description="Per channel, of raw / value_max, over the training split.")
    std: tuple[float, ...] = Field(description="Per channel, of raw / value_max, over the training split.")
    resize: Literal["stretch", "crop"] = Field(
        default="stretch",
        description="Images of another size: stretched, or scaled to cover the size and cut at the centre.",
    )
    background: float = Field(
        default=1.0, ge=0, le=1, description="Intensity behind transparent pixels, as a fraction of full intensity."
    )

    @model_validator(mode="after")
    def _check_channels(self) -> Self:
        _check_statistics(self.mean, self.std, self.channels, "channels")
        return self

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one sample: (channels, height, width)."""
        return (self.channels, self.height, self.width)

    def decode_image(self, data: bytes, max_pixels: int = MAX_IMAGE_PIXELS) -> Float32Array:
        """Decode a PNG or JPEG file into raw units, and resize it.

        EXIF rotation, palettes and 16-bit grey are handled; transparent pixels show `background`.

        Args:
            data: the bytes of the file.
            max_pixels: images with more pixels are rejected by their header, before they are decoded.

        Returns:
            float32 of shape (channels, height, width), in [0, value_max].

        Raises:
            RawInputError: the bytes are not a readable PNG or JPEG file, or it has more than `max_pixels` pixels.
        """
        values, full_intensity = decode_planes(
            data,
            channels=self.channels,
            height=self.height,
            width=self.width,
            resize=self.resize,
            background=self.background,
            max_pixels=max_pixels,
        )
        return values * np.float32(self.value_max / full_intensity)

    def decode(self, instance: Any) -> Float32Array:
        """Read one image given as nested lists of raw values.

        Args:
            instance: numbers nested as (channels, height, width); a grey image also as (height, width).

        Returns:
            float32 of shape (channels, height, width), in [0, value_max].

        Raises:
            RawInputError: not numbers, not rectangular, not finite, another shape, or a value outside [0, value_max],
                which suggests an image in other units.
        """
        raw = _to_finite_array(instance)
        if self.channels == 1 and raw.shape == (self.height, self.width):
            raw = raw[None]
        if raw.shape != self.sample_shape:
            grey = f" or {[self.height, self.width]}" if self.channels == 1 else ""
            raise RawInputError(
                f"Expected an image of shape {list(self.sample_shape)}{grey}, got {_show_shape(raw.shape)}."
            )
        array = raw.astype(np.float32)
        outside = raw[(array < 0) | (array > np.float32(self.value_max))]
        if outside.size:
            raise RawInputError(
                f"The value {outside[0]:.9g} is outside the range of the image's values, 0 to {self.value_max:.9g}."
            )
        return array

    def standardise(self, raw: Array) -> Float32Array:
        """Return the network's tensor: (raw / value_max - mean) / std.

        Args:
            raw: (..., channels, height, width), any real dtype, in raw units.

        Returns:
            float32 of the same shape; computed in float32, so that every caller gets the same bits.
        """
        shape = (self.channels, 1, 1)
        mean = np.asarray(self.mean, np.float32).reshape(shape)
        std = np.asarray(self.std, np.float32).reshape(shape)
        return (np.asarray(raw, np.float32) / np.float32(self.value_max) - mean) / std

    def to_pixels(self, raw: Array) -> npt.NDArray[np.uint8]:
        """Return 8-bit pixels, the input of a network that standardises them itself: 255 * raw / value_max, rounded.

        Args:
            raw: (..., channels, height, width), any real dtype, from 0 to value_max.

        Returns:
            uint8 of the same shape, rounded to the nearest integer; 255 is full intensity.
        """
        return np.rint(np.asarray(raw, np.float64) * (255 / self.value_max)).astype(np.uint8)


class RowPreprocessing(BaseModel):
    """Preprocessing of table rows, one number per column: float32 tensors of shape (columns,)."""

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

    def decode(self, instance: Any) -> Float64Array:
        """Read one row, given as a list in column order or as an object keyed by column.

        Returns:
            float64 of shape (columns,), in raw units; float32 would round large numbers that are close to the same one.

        Raises:
            RawInputError: a column is missing or unknown, or a value is not a finite number.
        """
        values = _in_order(instance, self.columns, "row", "columns")
        try:
            array = _to_finite_array(values)
        except RawInputError:
            self._check_values(values)
            raise
        if array.shape != self.sample_shape:
            raise RawInputError(f"Expected a row of {len(self.columns)} numbers, got {_show_shape(array.shape)}.")
        return array

    def _check_values(self, values: Any) -> None:
        """Name the column of the first value that is not a finite number, if there is one value for each column."""
        if not isinstance(values, list) or len(values) != len(self.columns):
            return
        for name, value in zip(self.columns, values, strict=True):
            is_number = isinstance(value, Real) and not isinstance(value, bool)
            if not is_number:
                raise RawInputError(f"Column {name!r} takes numbers, not {show(value)}.")
            if not abs(value) <= FLOAT32_MAX:
                raise RawInputError(f"Column {name!r} has {show(value)}, which is not a finite float32 number.")

    def standardise(self, raw: Array) -> Float32Array:
        """Return the network's tensor: (raw - mean) / std.

        Args:
            raw: (..., columns), any real dtype, in raw units.

        Returns:
            float32 of the same shape; computed in float64, since columns may hold large numbers that are close, and
            rounded once.
        """
        mean, std = np.asarray(self.mean, np.float64), np.asarray(self.std, np.float64)
        return ((np.asarray(raw, np.float64) - mean) / std).astype(np.float32)


class SequencePreprocessing(BaseModel):
    """Preprocessing of sequences, channels measured over time: float32 tensors of shape (channels, length)."""

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

    def decode(self, instance: Any) -> Float64Array:
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

    def standardise(self, raw: Array) -> Float32Array:
        """Return the network's tensor: (raw - mean) / std.

        Args:
            raw: (..., channels, length), any real dtype, in raw units.

        Returns:
            float32 of the same shape; computed in float64, rounded once.
        """
        mean, std = (np.asarray(values, np.float64)[:, None] for values in (self.mean, self.std))
        return ((np.asarray(raw, np.float64) - mean) / std).astype(np.float32)


Preprocessing = Annotated[
    ImagePreprocessing | RowPreprocessing | TablePreprocessing | SequencePreprocessing, Field(discriminator="kind")
]


def _in_order(instance: Any, names: tuple[str, ...], kind: str, parts: str) -> Any:
    """Return the values of a JSON object in the order of `names`; return any other instance unchanged."""
    if not isinstance(instance, dict):
        return instance
    missing = [name for name in names if name not in instance]
    unknown = [name for name in instance if name not in names]
    if missing or unknown:
        lacks = f"lacks the {parts} {missing}" if missing else ""
        has = f"has unknown {parts} {unknown}" if unknown else ""
        raise RawInputError(f"The {kind} {' and '.join(filter(None, (lacks, has)))}.")
    return [instance[name] for name in names]


def _check_statistics(mean: tuple[float, ...], std: tuple[float, ...], count: int, parts: str) -> None:
    if len(mean) != count or len(std) != count:
        raise ValueError(f"mean and std need one value for each of the {count} {parts}")
    if not all(map(math.isfinite, mean)) or not all(math.isfinite(value) and value > 0 for value in std):
        raise ValueError("mean must be finite and std positive")


def _show_shape(shape: tuple[int, ...]) -> str:
    return f"shape {list(shape)}" if shape else "a single number"


def _to_finite_array(instance: Any) -> Float64Array:
    """Return nested numbers as float64; each must be finite in float32 too, and booleans are not numbers."""
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
    """Return whether a boolean is among the numbers; NumPy reads it as 0 or 1."""
    for _ in range(depth - 1):
        nested = list(chain.from_iterable(nested))
    return not {bool, np.bool_}.isdisjoint(map(type, nested))
