"""Data sets: raw samples and labels, their splits, and the preprocessing with the statistics of the training split.

    digits        scikit-learn's handwritten digits: 1797 images of 8 × 8, values 0 to 16
    npz:PATH      arrays x and y of a NumPy archive: images with classes or masks, sequences, or rows
    csv:PATH      a table with a header and a label column
    images:DIR    a folder with a folder of PNG and JPEG files for each class, or with files and a table labels.csv
    masks:DIR     a folder with a folder `images` of PNG and JPEG files, and a folder `masks` of PNG files

Samples stay in raw units; `normfold.contract.preprocess` makes tensors of them, here as in serving.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from normfold.contract.arrays import Array, Float32Array
from normfold.contract.preprocess import (
    ImagePreprocessing,
    Preprocessing,
    RowPreprocessing,
    SequencePreprocessing,
)
from normfold.models.data.files import FLOAT32_MAX, RawData, read_csv, read_npz
from normfold.models.data.image_files.decoded import DecodedImages, DecodedMasks
from normfold.models.data.image_files.labels_file import has_labels, read_labelled_images
from normfold.models.data.image_files.masks import read_masks
from normfold.models.data.image_files.memory import default_workers, hold_in_memory, is_held, measure_files
from normfold.models.data.images import read_images
from normfold.models.data.sources import DIGITS, FORMS, find_source
from normfold.models.data.splits import IndexArray, Splits, split_by_class, split_rows
from normfold.models.data.targets import TargetOptions, Targets, TargetScale, TaskName, measure_scale, task_of
from normfold.models.errors import DataError, TrainingWarning

MAX_CHUNK_ROWS = 1024
"""Maximum number of rows that are standardised at a time."""

MAX_STANDARDISED = math.sqrt(FLOAT32_MAX)
"""Maximum magnitude of a standardised value, in standard deviations from the mean."""


class DataConfig(BaseModel):
    """Source of a data set, and its splits. With unchanged files, it gives the same data set again."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    source: str = Field(default="digits", description=f"{FORMS}.")
    label_column: str | tuple[str, ...] | None = Field(
        default=None, description="Name of the label column of csv:PATH, or names of several; null: the last."
    )
    task: TaskName | None = Field(
        default=None,
        description="classification, segmentation, regression or multi-label; null: by the labels.",
    )
    unit: tuple[str, ...] = Field(
        default=(), description="Unit of each value to predict, or one for all of them; empty: not known."
    )
    image_size: tuple[int, int] | None = Field(
        default=None, description="Height and width of the images of a folder, in pixels."
    )
    channels: Literal[1, 3] = Field(default=3, description="Of the images of a folder: 1 for grey, 3 for RGB.")
    layout: Literal["nchw", "nhwc"] = Field(
        default="nchw", description="Axes of the images in npz:PATH: channels before height and width, or after them."
    )
    in_memory: bool | None = Field(
        default=None,
        description="Whether the images of a folder are decoded once and held in memory, or each time that they are "
        "needed; null: up to 1 GiB as float32 are held.",
    )
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
    x: Array | DecodedImages
    """Samples in raw units, (N, *sample_shape)."""
    y: Targets | DecodedMasks
    """Targets; their dtype and shape say the task, see `targets`."""
    labels: tuple[str, ...]
    """Names of the classes, values or labels."""
    preprocessing: Preprocessing
    """From raw units to tensors, with the mean and standard deviation of the training split."""
    splits: Splits
    workers: int = 0
    """Processes that decode images which are not held in memory; they do not change the result."""

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

    @cached_property
    def target_scale(self) -> TargetScale | None:
        """Mean and standard deviation of values to predict over the training split; None for other targets."""
        return measure_scale(self.y[self.splits.train], self.labels) if self.task == "regression" else None

    def targets(self, rows: IndexArray) -> Array:
        """Return the targets of the loss for these rows.

        Returns:
            Class indices, int64; standardised values, (rows, targets), float32; or 0 and 1, (rows, labels), float32.
        """
        y: Array = self.y[rows]
        if self.target_scale is not None:
            return self.target_scale.standardise(y)
        return y.astype(np.float32) if self.task == "multi-label" else y

    def tensors(self, rows: IndexArray) -> Float32Array:
        """Return the network's inputs for these rows: (len(rows), *input_shape), float32."""
        return self.preprocessing.standardise(self.x[rows])


def load_dataset(config: DataConfig, workers: int | None = None) -> Dataset:
    """Read a data set, split it, and compute mean and standard deviation of its training split.

    Args:
        config: source and splits.
        workers: processes that decode the images of a folder; None: those of `default_workers` where the images are
            not held in memory, otherwise 0.

    Raises:
        DataError: unknown source, a missing or invalid file, a single class, a class too small to be split, a mask
            without classes, or a value too far from the training split's mean.
    """
    try:
        raw = _read(config, workers or 0)
        splits = _split(raw, config)
        if isinstance(raw.x, DecodedImages) and is_held(raw, config.in_memory):
            raw = hold_in_memory(raw, workers or 0)
    except OSError as error:
        raise DataError(f"{error.filename or config.source!r} cannot be read: {error.strerror or error}.") from None
    except MemoryError:
        raise DataError(f"Data {config.source!r} do not fit into this machine's memory.") from None
    x = raw.x
    if isinstance(x, DecodedImages):
        workers = default_workers() if workers is None else workers
        preprocessing: Preprocessing = _measure_files(x, splits.train, workers)
    else:
        workers = 0
        preprocessing = _measure(raw, x, splits.train)
        _check_standardised(raw, x, preprocessing)
    dataset = Dataset(config.source, x, raw.y, raw.labels, preprocessing, splits, workers)
    check_targets(dataset, config)
    return dataset


def check_targets(dataset: Dataset, config: DataConfig) -> None:
    """Check that the options of targets are for the task of a data set, and that there is something to predict.

    Raises:
        DataError: they are not, or a value to predict is constant.
    """
    task, count, scale = dataset.task, len(dataset.labels), dataset.target_scale
    if config.task not in (None, task):
        raise DataError(f"{dataset.name!r} has labels for {task}, not for {config.task}.")
    if config.unit and (scale is None or len(config.unit) not in (1, count)):
        needed = f"one unit, or {count}" if task == "regression" else f"no unit: the task is {task}"
        raise DataError(f"`unit` has {len(config.unit)} units; {dataset.name!r} takes {needed}.")
    if config.ignore_index is not None and task != "segmentation":
        held = "one class for each sample" if task == "classification" else f"labels for {task}"
        raise DataError(f"`ignore_index` is for masks; {dataset.name!r} has {held}.")


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


def _read(config: DataConfig, workers: int) -> RawData:
    kind, path = find_source(config.source)
    if kind == DIGITS:
        return read_digits()
    if kind == "npz":
        return read_npz(path, TargetOptions(config.task, config.ignore_index), config.layout)
    if kind == "csv":
        return read_csv(path, config.label_column, TargetOptions(config.task))
    if kind == "masks":
        return read_masks(path, config.image_size, config.channels, config.ignore_index, workers)
    if has_labels(path):
        return read_labelled_images(path, config.image_size, config.channels, TargetOptions(config.task))
    return read_images(path, config.image_size, config.channels)


def _split(raw: RawData, config: DataConfig) -> Splits:
    fractions = {"validation_fraction": config.validation_fraction, "test_fraction": config.test_fraction}
    if isinstance(raw.y, np.ndarray) and raw.y.ndim == 1:
        return split_by_class(raw.y, raw.labels, seed=config.split_seed, **fractions)
    class_names = raw.labels if task_of(raw.y) == "segmentation" else None
    return split_rows(len(raw.y), class_names, seed=config.split_seed, **fractions)


def _measure(raw: RawData, x: Array, train: IndexArray) -> Preprocessing:
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


def _measure_files(images: DecodedImages, train: IndexArray, workers: int) -> ImagePreprocessing:
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


def _check_standardised(raw: RawData, x: Array, preprocessing: Preprocessing) -> None:
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
