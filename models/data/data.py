"""Data sets: raw samples and labels, their splits, and the preprocessing with the statistics of the training split.

    digits        scikit-learn's handwritten digits: 1797 images of 8 × 8, values 0 to 16
    npz:PATH      arrays x and y of a NumPy archive: images with classes or masks, sequences, or rows
    csv:PATH      a table with a header and a label column
    images:DIR    a folder with a folder of PNG and JPEG files for each class

Samples stay in raw units; `normfold.contract.preprocess` makes tensors of them, here as in serving.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from normfold.contract.arrays import Array, Float32Array
from normfold.contract.preprocess import (
    ImagePreprocessing,
    Preprocessing,
    RowPreprocessing,
    SequencePreprocessing,
)
from normfold.models.data.files import FLOAT32_MAX, RawData, read_csv, read_npz
from normfold.models.data.images import read_images
from normfold.models.data.splits import IndexArray, Splits, split_by_class, split_rows
from normfold.models.data.targets import TaskName, task_of
from normfold.models.errors import DataError, TrainingWarning

MAX_CHUNK_ROWS = 1024
"""Maximum number of rows that are standardised at a time."""

MAX_STANDARDISED = math.sqrt(FLOAT32_MAX)
"""Maximum magnitude of a standardised value, in standard deviations from the mean."""


class DataConfig(BaseModel):
    """Source of a data set, and its splits. With unchanged files, it gives the same data set again."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    source: str = Field(default="digits", description="digits, npz:PATH, csv:PATH or images:DIR.")
    label_column: str | None = Field(default=None, description="Name of the label column of csv:PATH; null: the last.")
    image_size: tuple[int, int] | None = Field(default=None, description="Height and width for images:DIR, in pixels.")
    channels: Literal[1, 3] = Field(default=3, description="For images:DIR: 1 for grey, 3 for RGB.")
    ignore_index: int | None = Field(
        default=None, description="Value in masks of pixels without a class, such as 255; null: every value is a class."
    )
    validation_fraction: float = Field(default=0.1, gt=0, lt=1, description="Fraction of each class for validation.")
    test_fraction: float = Field(default=0.2, gt=0, lt=1, description="Fraction of each class for the final test.")
    split_seed: int = Field(
        default=0, ge=0, description="Seed of the splits; independent of training's, so that runs share a test split."
    )

    @model_validator(mode="after")
    def _check_fractions(self) -> Self:
        if self.validation_fraction + self.test_fraction >= 1:
            raise ValueError(
                f"validation_fraction {self.validation_fraction:g} and test_fraction {self.test_fraction:g} leave no "
                "training rows; together they must be less than 1"
            )
        return self


@dataclass(frozen=True)
class Dataset:
    """Raw samples with labels, splits and preprocessing."""

    name: str
    x: Array
    """Samples in raw units, (N, *sample_shape)."""
    y: npt.NDArray[np.int64]
    """Class indices, (N,), or masks of them, (N, height, width), with IGNORED in pixels without a class."""
    labels: tuple[str, ...]
    """Names of the classes."""
    preprocessing: Preprocessing
    """From raw units to tensors, with the mean and standard deviation of the training split."""
    splits: Splits

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one sample, without the batch axis."""
        return self.preprocessing.sample_shape

    @property
    def target_shape(self) -> tuple[int, ...]:
        """Shape of one sample's target: () for a class, (height, width) for a mask."""
        return self.y.shape[1:]

    @property
    def task(self) -> TaskName:
        """What a network is trained for on these targets."""
        return task_of(self.y)

    def tensors(self, rows: IndexArray) -> Float32Array:
        """Return the network's inputs for these rows: (len(rows), *input_shape), float32."""
        return self.preprocessing.standardise(self.x[rows])


def load_dataset(config: DataConfig) -> Dataset:
    """Read a data set, split it, and compute mean and standard deviation of its training split.

    Args:
        config: source and splits.

    Raises:
        DataError: unknown source, a missing or invalid file, a single class, a class too small to be split, a mask
            without classes, or a value too far from the training split's mean.
    """
    try:
        raw = _read(config)
    except OSError as error:
        raise DataError(f"{error.filename or config.source!r} cannot be read: {error.strerror or error}.") from None
    except MemoryError:
        raise DataError(f"Data {config.source!r} do not fit into this machine's memory.") from None
    splits = _split(raw, config)
    preprocessing = _measure(raw, splits.train)
    _check_standardised(raw, preprocessing)
    return Dataset(name=config.source, x=raw.x, y=raw.y, labels=raw.labels, preprocessing=preprocessing, splits=splits)


def read_digits() -> RawData:
    """Return scikit-learn's handwritten digits: x (1797, 1, 8, 8), float32, 0 to 16, white on black."""
    from sklearn.datasets import load_digits  # takes half a second, which other data sets save

    digits = load_digits()
    return RawData(
        x=digits.images.astype(np.float32)[:, None],
        y=digits.target.astype(np.int64),
        labels=tuple(str(name) for name in digits.target_names),
        value_max=16.0,
        background=0.0,  # strokes are bright, so that transparent pixels are dark
    )


def _read(config: DataConfig) -> RawData:
    kind, colon, path = config.source.partition(":")
    if config.source == "digits":
        return read_digits()
    if colon and path:
        if kind == "npz":
            return read_npz(Path(path), config.ignore_index)
        if kind == "csv":
            return read_csv(Path(path), config.label_column)
        if kind == "images":
            return read_images(Path(path), config.image_size, config.channels)
    raise DataError(f"Unknown data {config.source!r}; give {_nearest(config.source)}.")


def _nearest(source: str) -> str:
    """Return what a source may have been meant as: a path without its kind, or any of the kinds."""
    suffix = Path(source).suffix
    kind = suffix[1:] if suffix in (".npz", ".csv") else "images" if source.endswith("/") else None
    return "digits, npz:PATH, csv:PATH or images:DIR" if kind is None else repr(f"{kind}:{source}")


def _split(raw: RawData, config: DataConfig) -> Splits:
    fractions = {"validation_fraction": config.validation_fraction, "test_fraction": config.test_fraction}
    if raw.y.ndim == 1:
        return split_by_class(raw.y, raw.labels, seed=config.split_seed, **fractions)
    return split_rows(len(raw.y), raw.labels, seed=config.split_seed, **fractions)


def _measure(raw: RawData, train: IndexArray) -> Preprocessing:
    """Return the preprocessing with mean and biased standard deviation per column, or per channel over all positions.

    They are computed in float64.
    """
    if raw.columns is not None:
        measured = [_mean_and_std(raw.x[train, index], f"Column {name!r}") for index, name in enumerate(raw.columns)]
        mean, std = zip(*measured, strict=True)
        return RowPreprocessing(columns=raw.columns, mean=mean, std=std)
    if raw.channels is not None:
        measured = [_mean_and_std(raw.x[train, index], f"Channel {name!r}") for index, name in enumerate(raw.channels)]
        mean, std = zip(*measured, strict=True)
        return SequencePreprocessing(channels=raw.channels, length=raw.x.shape[2], mean=mean, std=std)
    channels, height, width = raw.x.shape[1:]
    # One channel at a time, since a folder of images may fill much of the memory.
    measured = [_mean_and_std(raw.x[train, index], f"Channel {index}", raw.value_max) for index in range(channels)]
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


def _check_standardised(raw: RawData, preprocessing: Preprocessing) -> None:
    """Check that float32 can hold the square of every standardised value, as a batch's variance needs.

    An extreme value in the training split increases the standard deviation; one in another split would cause an error
    only after training.
    """
    for start in range(0, len(raw.x), MAX_CHUNK_ROWS):
        part = raw.x[start : start + MAX_CHUNK_ROWS]
        with np.errstate(all="ignore"):  # an overflow is reported below
            wrong = ~(np.abs(preprocessing.standardise(part)) <= MAX_STANDARDISED)
        if wrong.any():
            first = tuple(np.argwhere(wrong)[0].tolist())
            names, kind = (raw.columns, "column") if raw.channels is None else (raw.channels, "channel")
            where = f" in {kind} {names[first[1]]!r}" if names is not None else ""
            raise DataError(
                f"Sample {start + first[0]} (counted from 0) has {float(part[first]):g}{where}, too far from the "
                "training split's mean for float32; correct it or leave the sample out."
            )


def _mean_and_std(values: Array, name: str, value_max: float = 1.0) -> tuple[float, float]:
    mean, std = float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64))
    if values.min() == values.max() or not std > 0:
        warnings.warn(
            f"{name} is constant in the training split: it carries no information, and is not scaled.",
            TrainingWarning,
            stacklevel=4,
        )
        return mean / value_max, 1.0
    return mean / value_max, std / value_max
