"""Classification: one class for each sample, by cross entropy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from normfold.contract.source_card import IGNORED
from normfold.models.data.targets import TaskName
from normfold.models.tasks.task import Meter, Result, Task


class Classification(Task):
    """Cross entropy of logits (N, classes); the metric is accuracy, with F1 and AUC beside it."""

    name: ClassVar[TaskName] = "classification"
    metric = "accuracy"
    loss_name = "cross entropy (nats)"

    def __init__(self, label_smoothing: float = 0.0, weights: Tensor | None = None) -> None:
        """Take the options of the loss that is minimised; those of evaluation have none.

        Args:
            label_smoothing: target probability shared by all classes.
            weights: of the classes, (classes,), float32.
        """
        self.label_smoothing, self.weights = label_smoothing, weights

    def output_shape(self, outputs: int, target_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return (classes, *target_shape)."""
        return (outputs, *target_shape)

    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Return the mean cross entropy in nats, ().

        Args:
            outputs: logits, (B, classes, *target_shape).
            y: class indices, (B, *target_shape), with IGNORED in pixels without a class; int64.
        """
        weights = None if self.weights is None else self.weights.to(outputs)
        return F.cross_entropy(outputs, y, weights, ignore_index=IGNORED, label_smoothing=self.label_smoothing)

    def sums(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Return cross entropy without label smoothing, so that it compares with that of validation; correct; count."""
        plain = F.cross_entropy(outputs.float(), y, ignore_index=IGNORED, reduction="sum")  # ()
        correct = (outputs.argmax(dim=1) == y).sum()  # ()
        return torch.stack([plain, correct, (y != IGNORED).sum()])

    def of_sums(self, sums: Sequence[float]) -> Result:
        """Return means over all rows, or over all pixels with a class."""
        loss, correct, count = sums
        return Result(loss / count, {"accuracy": correct / count})

    def new_meter(self, *, is_final: bool = False) -> Meter:
        """Return a meter of loss, accuracy and F1; a final one takes AUC too."""
        return ClassMeter(with_auc=is_final)


class ClassMeter(Meter):
    """Cross entropy in nats without label smoothing, and counts of true and predicted classes."""

    def __init__(self, *, with_auc: bool = False) -> None:
        self.loss, self.confusion = 0.0, torch.zeros(0)
        self.rows: list[tuple[Tensor, Tensor]] | None = [] if with_auc else None

    def update(self, outputs: Tensor, y: Tensor) -> None:
        """Take logits (B, classes, *target_shape), and class indices (B, *target_shape)."""
        self.loss += F.cross_entropy(outputs, y, ignore_index=IGNORED, reduction="sum").item()
        has_class = y != IGNORED  # (B, *target_shape)
        counts = count_classes(y[has_class], outputs.argmax(dim=1)[has_class], outputs.shape[1])
        self.confusion = counts if self.confusion.numel() == 0 else self.confusion + counts
        if self.rows is not None:
            self.rows.append((outputs.softmax(dim=1).cpu(), y.cpu()))

    def result(self) -> Result:
        """Return means over all rows, or over all pixels with a class."""
        count = int(self.confusion.sum())
        metrics = {"accuracy": int(self.confusion.trace()) / count, "f1": mean_f1(self.confusion)}
        if self.rows is not None:
            probabilities, y = (torch.cat(parts) for parts in zip(*self.rows, strict=True))
            auc = mean_auc(torch.nn.functional.one_hot(y, probabilities.shape[1]), probabilities)
            metrics |= {} if auc is None else {"auc": auc}
        return Result(self.loss / count, metrics, self.confusion.cpu().numpy())


def count_classes(y: Tensor, predicted: Tensor, classes: int) -> Tensor:
    """Count rows or pixels, (N,), by true and predicted class: (classes, classes), int64."""
    return torch.bincount(y * classes + predicted, minlength=classes**2).reshape(classes, classes)


def mean_f1(confusion: Tensor) -> float:
    """Return F1 of each class, averaged over the classes that occur.

    With c[i, j] the number of rows of class i that were predicted as class j:
        F1_i = 2 c[i, i] / (sum of row i + sum of column i)

    Source: van Rijsbergen 1979, Information Retrieval, chapter 7; macro average as scikit-learn's f1_score.

    Args:
        confusion: counts, (classes, classes), not all zero.
    """
    counts = confusion.cpu().double()
    total = counts.sum(0) + counts.sum(1)
    occurs = total > 0
    return (2 * counts.diagonal()[occurs] / total[occurs]).mean().item()


def mean_auc(is_true: Tensor, scores: Tensor) -> float | None:
    """Return the area under the ROC curve of each column, averaged over the columns that hold both true and false.

    Args:
        is_true: (N, K), 0 or 1.
        scores: (N, K); more is more likely true.

    Returns:
        None where no column holds both, or a score is not finite.
    """
    from sklearn.metrics import roc_auc_score  # takes half a second, which other tasks save

    true, values = is_true.cpu().numpy(), scores.cpu().numpy()
    if not np.isfinite(values).all():
        return None
    areas = [
        float(roc_auc_score(true[:, k], values[:, k])) for k in range(true.shape[1]) if 0 < true[:, k].sum() < len(true)
    ]
    return sum(areas) / len(areas) if areas else None
