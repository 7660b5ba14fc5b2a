"""Regression: one value or several for each sample, by mean squared error of standardised values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from normfold.models.data.targets import TargetScale, TaskName
from normfold.models.tasks.task import Meter, Result, Task


class Regression(Task):
    """Mean squared error of values (N, targets), standardised by the training split; the metric is R².

    Standardised, values of different units count alike, and the loss is near 1 in the beginning whatever the unit, so
    that the usual learning rates fit.
    """

    name: ClassVar[TaskName] = "regression"
    metric = "r2"
    loss_name = "mean squared error (standardised)"

    def __init__(self, names: Sequence[str], scale: TargetScale, weights: Tensor | None = None) -> None:
        """Take what the targets are.

        Args:
            names: of the targets.
            scale: of the training split.
            weights: of the targets in the loss, (targets,), float32.
        """
        self.names, self.scale, self.weights = tuple(names), scale, weights

    def output_shape(self, outputs: int, target_shape: tuple[int, ...]) -> tuple[int, ...]:  # noqa: ARG002 -- as classes
        """Return (targets,)."""
        return (outputs,)

    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Return the mean squared error, ().

        Args:
            outputs: (B, targets).
            y: standardised values, (B, targets), float32.
        """
        if self.weights is None:
            return F.mse_loss(outputs, y)
        weights = self.weights.to(outputs)
        return ((outputs - y).square() * weights).mean() / weights.mean()

    def sums(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Return the sum of squared errors, of squared targets, and the number of values."""
        error = F.mse_loss(outputs.float(), y, reduction="sum")
        return torch.stack([error, y.square().sum(), torch.tensor(y.numel(), device=y.device)])

    def of_sums(self, sums: Sequence[float]) -> Result:
        """Return the mean squared error, and R² of standardised values, whose mean is 0."""
        error, squares, count = sums
        return Result(error / count, {"r2": 1 - error / squares})

    def new_meter(self, *, is_final: bool = False) -> Meter:  # noqa: ARG002 -- all of its metrics are fast
        """Return a meter of loss, R², MAE and RMSE."""
        return ValueMeter(self.names, self.scale)

    def in_units(self, values: Tensor) -> Tensor:
        """Return standardised values, (N, targets), in the units of the targets: float64."""
        mean, std = (torch.from_numpy(array).to(values.device) for array in (self.scale.mean, self.scale.std))
        return values.double() * std + mean

    def allowed_fall(self, score: float, rows: int) -> float:
        """Return the largest fall of R² that is not significant: one standard error.

        R² is 1 - m / v with the mean squared error m, whose standard error is m sqrt(2 / n) for errors of a normal
        distribution.
        """
        return max(0.0, 1 - score) * math.sqrt(2 / rows)


class ValueMeter(Meter):
    """Outputs and targets, standardised; the metrics are in the units of the targets."""

    def __init__(self, names: Sequence[str], scale: TargetScale) -> None:
        self.names, self.scale = names, scale
        self.outputs: list[Tensor] = []
        self.targets: list[Tensor] = []

    def update(self, outputs: Tensor, y: Tensor) -> None:
        """Take outputs and standardised targets, (B, targets) both."""
        self.outputs.append(outputs.cpu())
        self.targets.append(y.cpu())

    def result(self) -> Result:
        """Return the mean squared error of standardised values, and metrics of each target in its unit.

        With several targets, `r2` is their mean, and the others have the target's name after theirs; a mean over
        different units would mean nothing.
        """
        outputs = torch.cat(self.outputs).double().numpy()  # (N, targets)
        y = torch.cat(self.targets).double().numpy()
        squared = np.square(outputs - y).mean(axis=0)  # (targets,)
        rmse = self.scale.std * np.sqrt(squared)
        mae = self.scale.std * np.abs(outputs - y).mean(axis=0)
        r2 = np.array([_r_squared(error, variance) for error, variance in zip(squared, y.var(axis=0), strict=True)])
        metrics = {"r2": float(r2.mean())}
        if len(self.names) == 1:
            metrics |= {"mae": float(mae[0]), "rmse": float(rmse[0])}
        else:
            for index, name in enumerate(self.names):
                metrics |= {f"r2_{name}": float(r2[index])}
                metrics |= {f"mae_{name}": float(mae[index]), f"rmse_{name}": float(rmse[index])}
        return Result(float(squared.mean()), metrics)


def _r_squared(squared_error: float, variance: float) -> float:
    """Return 1 - mean squared error / variance; 0 for targets that do not vary, as in a split of one row."""
    return 1 - squared_error / variance if variance > 0 else 0.0
