"""A run folder's network with its running statistics taken anew, where that can be done and does no harm."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from normfold.contract.audit.findings import LayerDrift
from normfold.contract.manifest import LayerMovement, RunningStatistics
from normfold.models.batchnorm.recalibrate import reestimate
from normfold.models.data.data import Dataset, load_dataset
from normfold.models.data.splits import IndexArray
from normfold.models.errors import DataError, StatisticsError, TrainingWarning
from normfold.models.training.checkpoint import Checkpoint, RunConfig, load_checkpoint
from normfold.models.training.metrics import Result
from normfold.models.training.run import with_metrics
from normfold.models.training.train import evaluate


@dataclass(frozen=True)
class Reestimated:
    """A network as it is to be exported."""

    checkpoint: Checkpoint
    """Its card has the record, and the metrics of the network as it is here."""
    record: RunningStatistics | None
    """None where the statistics could not be taken anew."""
    note: str | None
    """Why the statistics are those of training; None where they are not."""


def reestimate_run(folder: Path, say: Callable[[str], None] = lambda _: None) -> Reestimated:
    """Load a run folder, and take its running statistics anew over its training split; the folder is left as it is.

    They are kept as training left them where there is no BatchNorm, where the data are gone or are others by now, and
    where validation accuracy falls by more than `allowed_fall`.

    Raises:
        WeightsError, ArchitectureError: the checkpoint cannot be loaded.
    """
    trained = load_checkpoint(folder)
    if not any(isinstance(module, _BatchNorm) for module in trained.network.modules()):
        return Reestimated(trained, None, "the network has no BatchNorm")
    say("reading the training data")
    try:
        dataset = load_training_data(trained.config)
        network = copy.deepcopy(trained.network)
        drifts = reestimate(network, tensors_of(dataset, dataset.splits.train), say)
    except (DataError, StatisticsError) as error:
        return Reestimated(trained, None, str(error).rstrip("."))
    say("measuring the accuracy before and after")
    before, after = _evaluate(trained.network, dataset), _evaluate(network, dataset)
    fall = before["validation"].accuracy - after["validation"].accuracy
    allowed = allowed_fall(before["validation"].accuracy, len(dataset.splits.validation))
    taken = fall <= allowed and all(math.isfinite(result.loss) for result in after.values())
    record = RunningStatistics(
        samples=len(dataset.splits.train),
        taken=taken,
        accuracy_before={part: result.accuracy for part, result in before.items()},
        accuracy_after={part: result.accuracy for part, result in after.items()},
        layers=tuple(map(_movement, drifts)),
    )
    config = with_metrics(trained.config, folder, trained.config.epoch, after) if taken else trained.config
    config = config.model_copy(update={"card": config.card.model_copy(update={"running_statistics": record})})
    note = None if taken else "taken anew they make validation accuracy worse"
    return Reestimated(Checkpoint(network if taken else trained.network, config), record, note)


def allowed_fall(accuracy: float, rows: int) -> float:
    """Return the largest fall of an accuracy that says nothing: one standard error over so many rows, or one row.

    Source: the standard error of a proportion, sqrt(p (1 - p) / rows).
    """
    one_row = 1.5 / rows  # between one and two, since accuracies are rounded quotients
    return max(math.sqrt(accuracy * (1 - accuracy) / rows), one_row)


def load_training_data(config: RunConfig) -> Dataset:
    """Return the data that a network was trained on.

    Raises:
        DataError: they are not recorded, cannot be read, or are others by now.
    """
    if config.data is None:
        raise DataError("The run does not record its training data.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TrainingWarning)  # of the data: training has said so
        dataset = load_dataset(config.data)
    if dataset.labels != config.card.labels or dataset.preprocessing != config.card.preprocessing:
        raise DataError(f"The data {config.data.source!r} are no longer those of the training.")
    return dataset


def tensors_of(dataset: Dataset, rows: IndexArray) -> Tensor:
    """Return the network's inputs: (len(rows), *input_shape), float32."""
    return torch.from_numpy(dataset.tensors(rows))


def _evaluate(network: nn.Module, dataset: Dataset) -> dict[str, Result]:
    parts = {"validation": dataset.splits.validation, "test": dataset.splits.test}
    return {
        part: evaluate(network, tensors_of(dataset, rows), torch.from_numpy(dataset.y[rows]))
        for part, rows in parts.items()
    }


def _movement(drift: LayerDrift) -> LayerMovement:
    shift, ratio = np.abs(drift.mean_shift), drift.variance_ratio
    return LayerMovement(
        layer=drift.layer,
        mean_shift=float(shift.max()) if np.isfinite(shift).all() else None,
        variance_ratio=(float(ratio.min()), float(ratio.max())) if np.isfinite(ratio).all() else None,
    )
