"""Recalibrate the network of a run folder, unless that lowers its validation accuracy."""

from __future__ import annotations

import copy
import math
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from normfold.contract.audit.findings import StatisticsDifference
from normfold.contract.progress import ProgressCallback, ignore_progress
from normfold.contract.source_card import LayerStatisticsChange, RunningStatistics
from normfold.models.data.data import Dataset, load_dataset
from normfold.models.data.splits import IndexArray
from normfold.models.errors import DataError, StatisticsError, TrainingWarning
from normfold.models.statistics.recalibrate import recalibrate
from normfold.models.tasks.choose import make_task
from normfold.models.tasks.task import Result
from normfold.models.training.checkpoint import Checkpoint, RunConfig, load_checkpoint
from normfold.models.training.evaluate import evaluate
from normfold.models.training.run import with_metrics


@dataclass(frozen=True)
class RecalibratedRun:
    """The network of a run folder as it is to be exported."""

    checkpoint: Checkpoint
    """Network and config; the card holds `record`, and the metrics of this network."""
    record: RunningStatistics | None
    """Result of the recalibration; None where it was not possible."""
    note: str | None
    """The reason why the statistics are those of training; None where they are recalibrated."""


def recalibrate_run(folder: Path, progress: ProgressCallback = ignore_progress) -> RecalibratedRun:
    """Load the network of a run folder, and recalibrate it over the run's training split; the folder is not changed.

    The network keeps the statistics of its training if it has no BatchNorm, if the training data are missing or have
    changed, or if validation accuracy falls by more than `allowed_fall`.

    Args:
        folder: run folder of `fit`.
        progress: called with each step, in words.

    Raises:
        WeightsError: the checkpoint is missing, damaged or of another network.
        ArchitectureError: the network cannot be built.
    """
    trained = load_checkpoint(folder)
    layers = {name for name, module in trained.network.named_modules() if isinstance(module, _BatchNorm)}
    if not layers:
        return RecalibratedRun(trained, None, "the network has no BatchNorm")
    if layers <= set(trained.config.frozen_batchnorms):
        return RecalibratedRun(trained, None, "every BatchNorm was frozen in training")
    progress("reading the training data")
    try:
        dataset = load_training_data(trained.config)
        network = copy.deepcopy(trained.network)
        x = tensors_of(dataset, dataset.splits.train)
        differences = recalibrate(network, x, progress, trained.config.frozen_batchnorms)
    except (DataError, StatisticsError) as error:
        return RecalibratedRun(trained, None, str(error).rstrip("."))
    progress("measuring the accuracy before and after")
    before, after = _evaluate(trained.network, dataset), _evaluate(network, dataset)
    fall = before["validation"].metrics["accuracy"] - after["validation"].metrics["accuracy"]
    allowed = allowed_fall(before["validation"].metrics["accuracy"], len(dataset.splits.validation))
    taken = fall <= allowed and all(math.isfinite(result.loss) for result in after.values())
    record = RunningStatistics(
        samples=len(dataset.splits.train),
        taken=taken,
        accuracy_before={part: result.metrics["accuracy"] for part, result in before.items()},
        accuracy_after={part: result.metrics["accuracy"] for part, result in after.items()},
        layers=tuple(map(_summarise, differences)),
    )
    config = with_metrics(trained.config, folder, trained.config.epoch, after) if taken else trained.config
    config = config.model_copy(update={"card": config.card.model_copy(update={"running_statistics": record})})
    note = None if taken else "recalibration lowers validation accuracy"
    return RecalibratedRun(Checkpoint(network if taken else trained.network, config), record, note)


def allowed_fall(accuracy: float, rows: int) -> float:
    """Return the largest fall of an accuracy that is not significant: one standard error, or one row if that is more.

    The standard error of a proportion p over n rows is sqrt(p (1 - p) / n).

    Args:
        accuracy: before recalibration, 0 to 1.
        rows: number of rows that it was measured on.
    """
    one_row = 1.5 / rows  # between the fall of one row and of two: accuracies are rounded quotients
    return max(math.sqrt(accuracy * (1 - accuracy) / rows), one_row)


def load_training_data(config: RunConfig) -> Dataset:
    """Load the data set that a network was trained on.

    Args:
        config: of the run.

    Raises:
        DataError: the data are not recorded, cannot be read, or have changed.
    """
    if config.data is None:
        raise DataError("The run does not record its training data.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TrainingWarning)  # training has warned already
        dataset = load_dataset(config.data)
    if dataset.labels != config.card.labels or dataset.preprocessing != config.card.preprocessing:
        raise DataError(f"The data {config.data.source!r} have changed since the training.")
    return dataset


def tensors_of(dataset: Dataset, rows: IndexArray) -> Tensor:
    """Return the network's inputs for some rows of a data set: (len(rows), *input_shape), float32."""
    return torch.from_numpy(dataset.tensors(rows))


def _evaluate(network: nn.Module, dataset: Dataset) -> dict[str, Result]:
    parts = {"validation": dataset.splits.validation, "test": dataset.splits.test}
    task = make_task(dataset)
    return {
        part: evaluate(network, tensors_of(dataset, rows), torch.from_numpy(dataset.y[rows]), task)
        for part, rows in parts.items()
    }


def _summarise(difference: StatisticsDifference) -> LayerStatisticsChange:
    means, ratio = np.abs(difference.mean_difference), difference.variance_ratio
    return LayerStatisticsChange(
        layer=difference.layer,
        mean_shift=float(means.max()) if np.isfinite(means).all() else None,
        variance_ratio=(float(ratio.min()), float(ratio.max())) if np.isfinite(ratio).all() else None,
    )
