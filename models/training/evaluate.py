"""Loss and metrics of a network in eval mode."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from normfold.models.data.loading.rows import HeldRows, Rows
from normfold.models.tasks.task import Result, Task

MAX_ROWS, MAX_VALUES = 1024, 2**22
"""Maximum number of rows, and of input values, that run at a time; they do not change the result."""


def evaluate(network: nn.Module, x: Tensor, y: Tensor, task: Task) -> Result:
    """Evaluate a network in eval mode; its mode is restored.

    Args:
        network: returns the outputs of the task.
        x: (N, *input_shape), float32.
        y: targets of the task, (N, *target_shape).
        task: loss and metrics.

    Returns:
        The task's loss and metrics over all rows.
    """
    return evaluate_rows(network, HeldRows(x, y), task)


@torch.no_grad()
def evaluate_rows(network: nn.Module, data: Rows, task: Task) -> Result:
    """Evaluate a network as `evaluate` does, on rows that may be read from files as they are needed."""
    was_training = network.training
    network.eval()
    meter = task.new_meter()
    rows = max(1, min(MAX_ROWS, MAX_VALUES // math.prod(data.shape[1:])))
    for xb, yb in data.chunks(rows):
        meter.update(network(xb).float(), yb)  # (B, *output_shape)
    network.train(was_training)
    return meter.result()
