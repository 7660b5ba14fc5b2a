"""Loss and metrics of a network in eval mode."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from normfold.models.tasks.task import Result, Task

MAX_ROWS, MAX_VALUES = 1024, 2**22
"""Maximum number of rows, and of input values, that run at a time; they do not change the result."""


@torch.no_grad()
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
    was_training = network.training
    network.eval()
    meter = task.new_meter()
    rows = max(1, min(MAX_ROWS, MAX_VALUES // math.prod(x.shape[1:])))
    for xb, yb in zip(torch.split(x, rows), torch.split(y, rows), strict=True):
        meter.update(network(xb).float(), yb)  # (B, *output_shape)
    network.train(was_training)
    return meter.result()
