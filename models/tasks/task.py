"""The interface of a task: training and evaluation take loss, metrics and the shape of the outputs from it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from normfold.models.data.targets import TaskName


@dataclass(frozen=True)
class Result:
    """Loss and metrics of a network on a split."""

    loss: float
    metrics: dict[str, float] = field(default_factory=dict)
    """By name; what they mean is the task's."""

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
    """Name of the metric that decides on the best epoch."""

    @abstractmethod
    def output_shape(self, outputs: int, target_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape that a network must return for a sample.

        Args:
            outputs: number of classes, or of values.
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
    def new_meter(self) -> Meter:
        """Return a meter for one evaluation."""

    def score(self, result: Result) -> float:
        """Return the figure by which epochs are compared; more is better."""
        return result.metrics[self.metric]
