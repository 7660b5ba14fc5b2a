"""Loss and metrics of a network in eval mode."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from normfold.models.data.data import Dataset
from normfold.models.data.loading.rows import HeldRows, Rows
from normfold.models.tasks.choose import make_task
from normfold.models.tasks.task import Result, Task
from normfold.models.training.config import TrainConfig

MAX_ROWS, MAX_VALUES = 1024, 2**22
"""Maximum number of rows, and of input values, that run at a time; they do not change the result."""


def task_of_run(dataset: Dataset, settings: TrainConfig | None) -> Task:
    """Return the task of a data set, with the options of a run.

    Raises:
        DataError: an option is not for the task.
        FunctionError: a loss or metric of the user's own cannot be imported.
    """
    if settings is None:
        return make_task(dataset)
    return make_task(
        dataset,
        label_smoothing=settings.label_smoothing,
        weights=settings.class_weights,
        threshold=settings.threshold,
        loss=settings.loss,
        metrics=settings.metric or (),
    )


@torch.no_grad()
def evaluate(network: nn.Module, x: Tensor, y: Tensor, task: Task, *, is_final: bool = False) -> Result:
    """Evaluate a network in eval mode; its mode is restored.

    Args:
        network: returns the outputs of the task.
        x: (N, *input_shape), float32.
        y: targets of the task, (N, *target_shape).
        task: loss and metrics.
        is_final: take metrics that are slow, too.

    Returns:
        The task's loss and metrics over all rows.
    """
    return evaluate_rows(network, HeldRows(x, y), task, is_final=is_final)


@torch.no_grad()
def evaluate_rows(network: nn.Module, data: Rows, task: Task, *, is_final: bool = False) -> Result:
    """Evaluate a network as `evaluate` does, on rows that may be read from files as they are needed."""
    was_training = network.training
    network.eval()
    meter = task.new_meter(is_final=is_final)
    rows = max(1, min(MAX_ROWS, MAX_VALUES // math.prod(data.shape[1:])))
    for xb, yb in data.chunks(rows):
        meter.update(network(xb).float(), yb)  # (B, *output_shape)
    network.train(was_training)
    return meter.result()
