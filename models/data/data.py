"""Data sets: raw samples and labels, their splits, and the preprocessing with the statistics of the training split.

    digits        scikit-learn's handwritten digits: 1797 images of 8 × 8, values 0 to 16
    npz:PATH      arrays x and y of a NumPy archive: images with classes or masks, sequences, or rows
    csv:PATH      a table with a header and a label column: numbers, texts, missing values
    parquet:PATH  the same
    images:DIR    a folder with a folder of PNG and JPEG files for each class, or with files and a table labels.csv
    masks:DIR     a folder with a folder `images` of PNG and JPEG files, and a folder `masks` of PNG files

Samples stay in raw units; `normfold.contract.preprocess` makes tensors of them, here as in serving.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from normfold.contract.arrays import Array, Float32Array
from normfold.contract.preprocess import Preprocessing
from normfold.models.data.config import DataConfig
from normfold.models.data.image_files.decoded import DecodedImages, DecodedMasks
from normfold.models.data.image_files.memory import default_workers, hold_in_memory, is_held
from normfold.models.data.measure import check_standardised, measure, measure_images
from normfold.models.data.read import read_source
from normfold.models.data.splits import IndexArray, Splits
from normfold.models.data.splitting.choose import choose_splits
from normfold.models.data.splitting.own_files import OwnFile, join
from normfold.models.data.splitting.tables import encode_rows, learn_rows
from normfold.models.data.tables.encoding import encode
from normfold.models.data.tables.read_table import Table
from normfold.models.data.targets import Targets, TargetScale, TaskName, measure_scale, task_of
from normfold.models.errors import DataError

__all__ = ["DataConfig", "Dataset", "check_targets", "load_dataset"]


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
    table: Table | None = None
    """For rows of a table: its columns."""

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

    def with_preprocessing(self, preprocessing: Preprocessing) -> Dataset:
        """Return the same samples with the preprocessing of other data.

        Raises:
            DataError: a table has other columns, or other kinds of columns.
        """
        x = self.x if self.table is None else encode(self.table, preprocessing)
        return replace(self, x=x, preprocessing=preprocessing)


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
        raw = read_source(config, config.source, workers or 0)
        own = {
            split: OwnFile(source, read_source(config, source, workers or 0))
            for split, source in config.own_files.items()
        }
        splits = choose_splits(raw, config)
        encoding = None if raw.table is None else learn_rows(raw, splits.train)
        if encoding is not None:
            raw, own = encode_rows(raw, own, encoding)
        if own:
            raw, splits = join(raw, splits, own)
        if isinstance(raw.x, DecodedImages) and is_held(raw, config.in_memory):
            raw = hold_in_memory(raw, workers or 0)
    except OSError as error:
        raise DataError(f"{error.filename or config.source!r} cannot be read: {error.strerror or error}.") from None
    except MemoryError:
        raise DataError(f"Data {config.source!r} do not fit into this machine's memory.") from None
    x, table = raw.x, None if own else raw.table
    if isinstance(x, DecodedImages):
        workers = default_workers() if workers is None else workers
        preprocessing: Preprocessing = measure_images(x, splits.train, workers)
    else:
        workers = 0
        preprocessing = encoding or measure(raw, x, splits.train)
        check_standardised(raw, x, preprocessing)
    dataset = Dataset(config.source, x, raw.y, raw.labels, preprocessing, splits, workers, table)
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
