"""The subject of an audit: the network of a run folder or any other network, with data to compare its statistics to."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from normfold.contract.arrays import Float32Array
from normfold.contract.tables.preprocessing import TablePreprocessing
from normfold.models.batchnorm.audit import Subject
from normfold.models.batchnorm.recalibrate_run import load_training_data
from normfold.models.data.data import DataConfig, Dataset, load_dataset
from normfold.models.errors import DataError, TrainingWarning
from normfold.models.training.checkpoint import RunConfig, load_checkpoint

EXAMPLE_ROWS = 2


def subject_of_run(folder: Path, data: str | None) -> tuple[Subject, str | None]:
    """Return the network of a run folder with its training rows, or with other data standardised as in training.

    Args:
        folder: run folder of `fit`.
        data: source of other data, as in DataConfig; None for the training split of the run.

    Returns:
        The subject, and the reason why it has no rows, or None.

    Raises:
        WeightsError: the checkpoint is missing, damaged or of another network.
        ArchitectureError: the network cannot be built.
        DataError: the other data cannot be read, or their samples have another shape.
    """
    checkpoint = load_checkpoint(folder)
    config = checkpoint.config
    no_rows_reason, rows = None, None
    if data is not None:
        rows = torch.from_numpy(_given_rows(config, data))
    else:
        try:
            dataset = load_training_data(config)
            rows = torch.from_numpy(dataset.tensors(dataset.splits.train))
        except DataError as error:
            no_rows_reason = str(error)
    batch_rows = None if config.train is None else config.train.batch_size
    if batch_rows is not None and rows is not None and data is None:
        batch_rows = min(batch_rows, len(rows))
    example = _example(rows, config.architecture.input_shape)
    return Subject(checkpoint.network, example, rows, batch_rows), no_rows_reason


def subject_of_network(network: nn.Module, input_shape: tuple[int, ...], dataset: Dataset | None) -> Subject:
    """Return any network as a subject, with all rows of a data set.

    Args:
        network: in the modes in which it is to be used.
        input_shape: shape of one sample, without the batch axis.
        dataset: standardised data, or None.
    """
    rows = None if dataset is None else torch.from_numpy(dataset.tensors(np.arange(len(dataset.x))))
    return Subject(network, _example(rows, input_shape), rows)


def load_given_data(source: str) -> Dataset:
    """Load data for a network without a source card, standardised by their own training split.

    Args:
        source: as in DataConfig: digits, npz:PATH, csv:PATH, parquet:PATH, images:DIR or masks:DIR.

    Raises:
        DataError: see `load_dataset`.
    """
    return _load(DataConfig(source=source))


def _given_rows(config: RunConfig, source: str) -> Float32Array:
    """Return all rows of other data, read and standardised as the run's own."""
    read_as = config.data or DataConfig()
    dataset = _load(read_as.model_copy(update={"source": source, "validation_data": None, "test_data": None}))
    is_table = isinstance(config.card.preprocessing, TablePreprocessing)
    if not is_table and dataset.input_shape != config.architecture.input_shape:
        raise DataError(
            f"Data {source!r} have samples of shape {list(dataset.input_shape)}; "
            f"the network takes {list(config.architecture.input_shape)}."
        )
    if config.card.preprocessing is not None:
        dataset = dataset.with_preprocessing(config.card.preprocessing)
    return dataset.tensors(np.arange(len(dataset.x)))


def _load(config: DataConfig) -> Dataset:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TrainingWarning)
        return load_dataset(config)


def _example(rows: Tensor | None, input_shape: tuple[int, ...]) -> Tensor:
    return torch.zeros(EXAMPLE_ROWS, *input_shape) if rows is None else rows[:EXAMPLE_ROWS]
