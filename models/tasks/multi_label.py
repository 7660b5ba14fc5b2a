"""Multi-label: several labels for each sample that do not exclude each other, by binary cross entropy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from normfold.models.data.targets import TaskName
from normfold.models.tasks.classification import mean_auc
from normfold.models.tasks.task import Meter, Result, Task


class MultiLabel(Task):
    """Binary cross entropy of logits (N, labels), each by its sigmoid; the metric is F1, averaged over the labels."""

    name: ClassVar[TaskName] = "multi-label"
    metric = "f1"
    loss_name = "binary cross entropy (nats)"

    def __init__(self, names: Sequence[str], threshold: float, weights: Tensor | None = None) -> None:
        """Take what the labels are.

        Args:
            names: of the labels.
            threshold: probability from which a label is given.
            weights: of the samples that have a label, by label, (labels,), float32.
        """
        self.names, self.threshold, self.weights = tuple(names), threshold, weights

    def output_shape(self, outputs: int, target_shape: tuple[int, ...]) -> tuple[int, ...]:  # noqa: ARG002 -- as classes
        """Return (labels,)."""
        return (outputs,)

    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Return the mean over rows and labels, ().

        Args:
            outputs: logits, (B, labels).
            y: 0 or 1, (B, labels), float32.
        """
        weights = None if self.weights is None else self.weights.to(outputs)
        return F.binary_cross_entropy_with_logits(outputs, y, pos_weight=weights)

    def sums(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Return the cross entropy without weights, the number of right labels, and of labels."""
        plain = F.binary_cross_entropy_with_logits(outputs.float(), y, reduction="sum")
        right = ((outputs.sigmoid() >= self.threshold) == (y > 0)).sum()
        return torch.stack([plain, right, torch.tensor(y.numel(), device=y.device)])

    def of_sums(self, sums: Sequence[float]) -> Result:
        """Return means over rows and labels."""
        loss, right, count = sums
        return Result(loss / count, {"accuracy": right / count})

    def new_meter(self, *, is_final: bool = False) -> Meter:
        """Return a meter of loss, F1 and accuracy; a final one takes F1 of each label and AUC too."""
        return LabelMeter(self.names, self.threshold, is_final=is_final)


class LabelMeter(Meter):
    """Logits and labels."""

    def __init__(self, names: Sequence[str], threshold: float, *, is_final: bool) -> None:
        self.names, self.threshold, self.is_final = names, threshold, is_final
        self.outputs: list[Tensor] = []
        self.targets: list[Tensor] = []

    def update(self, outputs: Tensor, y: Tensor) -> None:
        """Take logits, and 0 or 1, (B, labels) both."""
        self.outputs.append(outputs.cpu())
        self.targets.append(y.cpu())

    def result(self) -> Result:
        """Return the mean cross entropy over rows and labels, macro F1, the share of right labels, and AUC."""
        outputs, y = torch.cat(self.outputs), torch.cat(self.targets)  # (N, labels)
        is_given, is_true = outputs.sigmoid() >= self.threshold, y > 0
        f1 = label_f1(is_true, is_given)
        metrics = {"f1": f1.mean().item(), "accuracy": (is_given == is_true).double().mean().item()}
        if self.is_final:
            metrics |= {f"f1_{name}": value for name, value in zip(self.names, f1.tolist(), strict=True)}
            auc = mean_auc(is_true, outputs)
            metrics |= {} if auc is None else {"auc": auc}
        loss = F.binary_cross_entropy_with_logits(outputs, y).item()
        return Result(loss, metrics)


def label_f1(is_true: Tensor, is_given: Tensor) -> Tensor:
    """Return 2 tp / (2 tp + fp + fn) of each label, (labels,), float64; 0 where a label is neither true nor given.

    Args:
        is_true: (N, labels), bool.
        is_given: (N, labels), bool.
    """
    both = (is_true & is_given).sum(0).double()
    total = (is_true.sum(0) + is_given.sum(0)).double()
    return 2 * both / total.clamp(min=1)
