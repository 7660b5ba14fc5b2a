"""Mean and standard deviation of a training split, and the preprocessing with them."""

from __future__ import annotations

import math
import warnings

import numpy as np

from normfold.contract.arrays import Array
from normfold.contract.preprocess import (
    ImagePreprocessing,
    Preprocessing,
    RowPreprocessing,
    SequencePreprocessing,
)
from normfold.contract.tables.preprocessing import TablePreprocessing
from normfold.models.data.files import FLOAT32_MAX, RawData
from normfold.models.data.image_files.decoded import DecodedImages
from normfold.models.data.image_files.memory import measure_files
from normfold.models.data.splits import IndexArray
from normfold.models.errors import DataError, TrainingWarning

MAX_CHUNK_ROWS = 1024
"""Maximum number of rows that are standardised at a time."""

MAX_STANDARDISED = math.sqrt(FLOAT32_MAX)
"""Maximum magnitude of a standardised value, in standard deviations from the mean."""


def measure(raw: RawData, x: Array, train: IndexArray) -> Preprocessing:
    """Return the preprocessing with mean and biased standard deviation per column, or per channel over all positions.

    They are computed in float64.
    """
    if raw.columns is not None:
        measured = [_mean_and_std(x[train, index], f"Column {name!r}") for index, name in enumerate(raw.columns)]
        mean, std = zip(*measured, strict=True)
        return RowPreprocessing(columns=raw.columns, mean=mean, std=std)
    if raw.channels is not None:
        measured = [_mean_and_std(x[train, index], f"Channel {name!r}") for index, name in enumerate(raw.channels)]
        mean, std = zip(*measured, strict=True)
        return SequencePreprocessing(channels=raw.channels, length=x.shape[2], mean=mean, std=std)
    channels, height, width = x.shape[1:]
    # One channel at a time, since a folder of images may fill much of the memory.
    measured = [_mean_and_std(x[train, index], f"Channel {index}", raw.value_max) for index in range(channels)]
    mean, std = zip(*measured, strict=True)
    return ImagePreprocessing(
        channels=1 if channels == 1 else 3,
        height=height,
        width=width,
        value_max=raw.value_max,
        background=raw.background,
        mean=mean,
        std=std,
    )


def measure_images(images: DecodedImages, train: IndexArray, workers: int) -> ImagePreprocessing:
    """Return the preprocessing of images that are decoded when they are taken; no value is far from their mean."""
    mean, std, is_constant = measure_files(images, train, workers)
    for index in np.flatnonzero(is_constant):
        _warn_of_constant(f"Channel {index}")
    full = 255.0
    return ImagePreprocessing(
        channels=images.channels,
        height=images.height,
        width=images.width,
        value_max=full,
        mean=tuple((mean / full).tolist()),
        std=tuple(np.where(is_constant, 1.0, std / full).tolist()),
    )


def check_standardised(raw: RawData, x: Array, preprocessing: Preprocessing) -> None:
    """Check that float32 can hold the square of every standardised value, as a batch's variance needs.

    An extreme value in the training split increases the standard deviation; one in another split would cause an error
    only after training.
    """
    for start in range(0, len(x), MAX_CHUNK_ROWS):
        part = x[start : start + MAX_CHUNK_ROWS]
        with np.errstate(all="ignore"):  # an overflow is reported below
            wrong = ~(np.abs(preprocessing.standardise(part)) <= MAX_STANDARDISED)
        if wrong.any():
            first = tuple(np.argwhere(wrong)[0].tolist())
            if isinstance(preprocessing, TablePreprocessing):
                first = (first[0], preprocessing.input_columns[first[1]])
            names, kind = (raw.columns, "column") if raw.channels is None else (raw.channels, "channel")
            where = f" in {kind} {names[first[1]]!r}" if names is not None else ""
            raise DataError(
                f"Sample {start + first[0]} (counted from 0) has {float(part[first]):g}{where}, too far from the "
                "training split's mean for float32; correct it or leave the sample out."
            )


def _mean_and_std(values: Array, name: str, value_max: float = 1.0) -> tuple[float, float]:
    mean, std = float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64))
    if values.min() == values.max() or not std > 0:
        _warn_of_constant(name)
        return mean / value_max, 1.0
    return mean / value_max, std / value_max


def _warn_of_constant(name: str) -> None:
    warnings.warn(
        f"{name} is constant in the training split: it carries no information, and is not scaled.",
        TrainingWarning,
        stacklevel=5,
    )
