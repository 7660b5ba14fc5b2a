"""Which split of rows a data set gets: by groups, by times, by class, or at random."""

from __future__ import annotations

import numpy as np

from normfold.models.data.config import DataConfig
from normfold.models.data.files import RawData
from normfold.models.data.splits import Splits, check_classes, split_by_class, split_rows
from normfold.models.data.splitting.groups_and_times import check_training_classes, split_by_group, split_by_time
from normfold.models.data.targets import task_of
from normfold.models.errors import DataError


def choose_splits(raw: RawData, config: DataConfig) -> Splits:
    """Split the rows of the training file; a split with a file of its own gets none.

    Args:
        raw: rows, with their groups or times.
        config: fractions and seed.

    Raises:
        DataError: a single class, a class or group too small to be split, or groups and times together.
    """
    fractions = {
        "validation_fraction": 0.0 if config.validation_data else config.validation_fraction,
        "test_fraction": 0.0 if config.test_data else config.test_fraction,
    }
    of_rows = isinstance(raw.y, np.ndarray) and raw.y.ndim == 1
    y = np.asarray(raw.y, np.int64) if of_rows else None  # one class for each row
    if raw.groups is not None and raw.times is not None:
        raise DataError(f"{config.source!r} has groups and times; splits can follow one of them only.")
    class_names = raw.labels if task_of(raw.y) == "segmentation" else None
    if raw.groups is None and raw.times is None:
        if y is not None:
            return split_by_class(y, raw.labels, seed=config.split_seed, **fractions)
        return split_rows(len(raw.y), class_names, seed=config.split_seed, **fractions)
    if raw.groups is not None:
        splits = split_by_group(raw.groups, seed=config.split_seed, **fractions)
    else:
        assert raw.times is not None
        splits = split_by_time(raw.times, **fractions)
    if y is not None:
        check_classes(raw.labels)
        check_training_classes(y, raw.labels, splits.train)
    return splits
