"""Classification: one class for each sample, by cross entropy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from normfold.contract.source_card import IGNORED
from normfold.models.data.targets import TaskName
from normfold.models.tasks.task import Meter, Result, Task


class Classification(Task):
    """Cross entropy of logits (N, classes); the metric is accuracy."""

    name: ClassVar[TaskName] = "classification"
    metric = "accuracy"

    def __init__(self, label_smoothing: float = 0.0) -> None:
        self.label_smoothing = label_smoothing

    def output_shape(self, outputs: int, target_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return (classes, *target_shape)."""
        return (outputs, *target_shape)

    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Return the mean cross entropy in nats, ().

        Args:
            outputs: logits, (B, classes, *target_shape).
            y: class indices, (B, *target_shape), with IGNORED in pixels without a class; int64.
        """
        return F.cross_entropy(outputs, y, ignore_index=IGNORED, label_smoothing=self.label_smoothing)

    def sums(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Return cross entropy without label smoothing, so that it compares with that of validation; correct; count."""
        plain = F.cross_entropy(outputs.float(), y, ignore_index=IGNORED, reduction="sum")  # ()
        correct = (outputs.argmax(dim=1) == y).sum()  # ()
        return torch.stack([plain, correct, (y != IGNORED).sum()])

    def of_sums(self, sums: Sequence[float]) -> Result:
        """Return means over all rows, or over all pixels with a class."""
        loss, correct, count = sums
        return Result(loss / count, {"accuracy": correct / count})

    def new_meter(self) -> Meter:
        """Return a meter of loss and accuracy."""
        return ClassMeter()


class ClassMeter(Meter):
    """Cross entropy in nats without label smoothing, and counts of true and predicted classes."""

    def __init__(self) -> None:
        self.loss, self.confusion = 0.0, torch.zeros(0)

    def update(self, outputs: Tensor, y: Tensor) -> None:
        """Take logits (B, classes, *target_shape), and class indices (B, *target_shape)."""
        self.loss += F.cross_entropy(outputs, y, ignore_index=IGNORED, reduction="sum").item()
        has_class = y != IGNORED  # (B, *target_shape)
        counts = count_classes(y[has_class], outputs.argmax(dim=1)[has_class], outputs.shape[1])
        self.confusion = counts if self.confusion.numel() == 0 else self.confusion + counts

    def result(self) -> Result:
        """Return means over all rows, or over all pixels with a class."""
        count = int(self.confusion.sum())
        return Result(self.loss / count, {"accuracy": int(self.confusion.trace()) / count})


def count_classes(y: Tensor, predicted: Tensor, classes: int) -> Tensor:
    """Count rows or pixels, (N,), by true and predicted class: (classes, classes), int64."""
    return torch.bincount(y * classes + predicted, minlength=classes**2).reshape(classes, classes)
