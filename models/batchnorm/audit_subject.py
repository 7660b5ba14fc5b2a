"""What an audit looks at: the network of a run folder or any other, with the data to compare it with."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from normfold.contract.preprocess import FloatArray
from normfold.models.batchnorm.audit import Subject
from normfold.models.batchnorm.recalibrate_run import load_training_data
from normfold.models.data.data import DataConfig, Dataset, load_dataset
from normfold.models.errors import DataError, TrainingWarning
from normfold.models.training.checkpoint import RunConfig, load_checkpoint

EXAMPLE_ROWS = 2


def subject_of_run(folder: Path, data: str | None) -> tuple[Subject, str | None]:
    """Return a run folder's network with its training rows, or those of other data, standardised as in training.

    Returns:
        The subject, and why there are no rows, if so.

    Raises:
        WeightsError, ArchitectureError: the checkpoint cannot be loaded.
        DataError: the data that were given cannot be read, or are of another shape.
    """
    checkpoint = load_checkpoint(folder)
    config = checkpoint.config
    why_not, rows = None, None
    if data is not None:
        rows = torch.from_numpy(_given_rows(config, data))
    else:
        try:
            dataset = load_training_data(config)
            rows = torch.from_numpy(dataset.tensors(dataset.splits.train))
        except DataError as error:
            why_not = str(error)
    batch_rows = None if config.train is None else config.train.batch_size
    if batch_rows is not None and rows is not None and data is None:
        batch_rows = min(batch_rows, len(rows))
    example = _example(rows, config.architecture.input_shape)
    return Subject(checkpoint.network, example, rows, batch_rows), why_not


def subject_of_network(network: nn.Module, input_shape: tuple[int, ...], dataset: Dataset | None) -> Subject:
    """Return any network, with all rows of a data set if there is one."""
    rows = None if dataset is None else torch.from_numpy(dataset.tensors(np.arange(len(dataset.x))))
    return Subject(network, _example(rows, input_shape), rows)


def load_given_data(source: str) -> Dataset:
    """Read data for a network of which nothing is known, standardised by their own training split.

    Raises:
        DataError: see `load_dataset`.
    """
    return _load(DataConfig(source=source))


def _given_rows(config: RunConfig, source: str) -> FloatArray:
    """Return all rows of a source, read and standardised as the run's own."""
    read_as = config.data or DataConfig()
    dataset = _load(read_as.model_copy(update={"source": source}))
    if dataset.input_shape != config.architecture.input_shape:
        raise DataError(
            f"Data {source!r} have samples of shape {list(dataset.input_shape)}; "
            f"the network takes {list(config.architecture.input_shape)}."
        )
    if config.card.preprocessing is not None:
        dataset = dataclasses.replace(dataset, preprocessing=config.card.preprocessing)
    return dataset.tensors(np.arange(len(dataset.x)))


def _load(config: DataConfig) -> Dataset:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TrainingWarning)
        return load_dataset(config)


def _example(rows: Tensor | None, input_shape: tuple[int, ...]) -> Tensor:
    return torch.zeros(EXAMPLE_ROWS, *input_shape) if rows is None else rows[:EXAMPLE_ROWS]
