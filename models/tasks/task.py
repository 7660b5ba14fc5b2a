"""The interface of a task: training and evaluation take loss, metrics and the shape of the outputs from it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from normfold.contract.arrays import Array
from normfold.models.data.targets import TaskName


@dataclass(frozen=True)
class Result:
    """Loss and metrics of a network on a split."""

    loss: float
    metrics: dict[str, float] = field(default_factory=dict)
    """By name; what they mean is the task's."""
    confusion: Array | None = field(default=None, compare=False)
    """For classes: rows by true and predicted class, (classes, classes)."""

    @property
    def values(self) -> dict[str, float]:
        """Loss and metrics by name."""
        return {"loss": self.loss, **self.metrics}


class Meter(ABC):
    """Collects outputs and targets of an evaluation, batch by batch."""

    @abstractmethod
    def update(self, outputs: Tensor, y: Tensor) -> None:
        """Take a batch: outputs of the network, float32, and its targets."""

    @abstractmethod
    def result(self) -> Result:
        """Return loss and metrics over all batches."""


class Task(ABC):
    """What a network is trained for."""

    name: ClassVar[TaskName]
    metric: ClassVar[str]
    """Name of the metric that decides on the best epoch; more is better."""
    loss_name: str
    """What the reported loss is, with its unit."""

    @abstractmethod
    def output_shape(self, outputs: int, target_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape that a network must return for a sample.

        Args:
            outputs: number of classes, values or labels.
            target_shape: shape of a sample's target.
        """

    @abstractmethod
    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Return the loss that is minimised, ()."""

    @abstractmethod
    def sums(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Return the sums of a training batch, (3,): they are added up over the steps of an epoch and all processes."""

    @abstractmethod
    def of_sums(self, sums: Sequence[float]) -> Result:
        """Return the result of an epoch's sums."""

    @abstractmethod
    def new_meter(self, *, is_final: bool = False) -> Meter:
        """Return a meter for one evaluation; a final one also takes metrics that are slow."""

    def score(self, result: Result) -> float:
        """Return the figure by which epochs are compared; more is better."""
        return result.metrics[self.metric]

    def in_units(self, values: Tensor) -> Tensor:
        """Return outputs or targets of the loss in the units that users know."""
        return values

    def allowed_fall(self, score: float, rows: int) -> float:
        """Return the largest fall of the score that is not significant.

        Args:
            score: that falls.
            rows: that it was measured on.
        """
        return allowed_fall(score, rows)


def allowed_fall(share: float, rows: int) -> float:
    """Return the largest fall of an accuracy that is not significant: one standard error, or one row if that is more.

    The standard error of a proportion p over n rows is sqrt(p (1 - p) / n).

    Args:
        share: that falls, 0 to 1.
        rows: number of rows that it was measured on.
    """
    one_row = 1.5 / rows  # between the fall of one row and of two: accuracies are rounded quotients
    return max(math.sqrt(share * (1 - share) / rows), one_row)
