"""Reader of any source of a data set."""

from __future__ import annotations

import numpy as np

from normfold.models.data.config import DataConfig
from normfold.models.data.files import RawData, read_npz
from normfold.models.data.image_files.labels_file import has_labels, read_labelled_images
from normfold.models.data.image_files.masks import read_masks
from normfold.models.data.images import read_images
from normfold.models.data.sources import DIGITS, TABLES, find_source
from normfold.models.data.tables.options import TableOptions
from normfold.models.data.tables.raw_rows import read_rows
from normfold.models.data.targets import TargetOptions
from normfold.models.errors import DataError


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


def read_source(config: DataConfig, source: str, workers: int) -> RawData:
    """Read one file or folder of a data set.

    Args:
        config: options of reading.
        source: `source` of the config, or that of a split with a file of its own.
        workers: processes that decode images.

    Raises:
        DataError: unknown source, a missing or invalid file, or an option of tables for other data.
    """
    kind, path = find_source(source)
    if kind not in TABLES:
        _check_no_table_options(config, source)
    if kind == DIGITS:
        return read_digits()
    if kind == "npz":
        return read_npz(path, TargetOptions(config.task, config.ignore_index), config.layout)
    if kind in TABLES:
        options = TableOptions(
            config.label_column,
            config.drop,
            config.category,
            config.missing,
            config.missing_value,
            config.group_column,
            config.time_column,
        )
        return read_rows(path, kind, options, TargetOptions(config.task))
    if kind == "masks":
        return read_masks(path, config.image_size, config.channels, config.ignore_index, workers)
    if has_labels(path):
        return read_labelled_images(path, config.image_size, config.channels, TargetOptions(config.task))
    return read_images(path, config.image_size, config.channels, 2 if source == config.source else 1)


def _check_no_table_options(config: DataConfig, source: str) -> None:
    for option in ("drop", "category", "missing", "missing_value"):
        if getattr(config, option):
            raise DataError(f"`{option}` is for tables, csv:PATH or parquet:PATH; {source!r} is none.")
