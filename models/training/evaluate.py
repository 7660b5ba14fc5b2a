"""Loss, accuracy and mean IoU of a network in eval mode."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normfold.contract.source_card import IGNORED
from normfold.models.data.loading.rows import HeldRows, Rows

MAX_ROWS, MAX_VALUES = 1024, 2**22
"""Maximum number of rows, and of input values, that run at a time; they do not change the result."""


@dataclass(frozen=True)
class Result:
    """Mean cross entropy in nats, and accuracy, over rows, or over all pixels of masks with a class."""

    loss: float
    accuracy: float
    mean_iou: float | None = None
    """Mean intersection over union of masks, in evaluation; see `mean_iou`."""


def evaluate(network: nn.Module, x: Tensor, y: Tensor) -> Result:
    """Evaluate a network in eval mode, without label smoothing; its mode is restored.

    Args:
        network: returns logits (N, classes), or (N, classes, height, width) for masks.
        x: (N, *input_shape), float32.
        y: class indices, (N,), or (N, height, width) for masks, with IGNORED in pixels without a class; int64.

    Returns:
        Mean over all rows; for masks, mean over all pixels with a class, and mean IoU over these.
    """
    return evaluate_rows(network, HeldRows(x, y))


@torch.no_grad()
def evaluate_rows(network: nn.Module, data: Rows) -> Result:
    """Evaluate a network as `evaluate` does, on rows that may be read from files as they are needed."""
    was_training = network.training
    network.eval()
    loss = correct = 0.0
    count = 0
    confusion: Tensor | None = None
    rows = max(1, min(MAX_ROWS, MAX_VALUES // math.prod(data.shape[1:])))
    for xb, yb in data.chunks(rows):
        logits = network(xb).float()  # (B, *input_shape) -> (B, classes, *target_shape)
        predicted = logits.argmax(dim=1)  # (B, *target_shape)
        loss += F.cross_entropy(logits, yb, ignore_index=IGNORED, reduction="sum").item()
        correct += (predicted == yb).sum().item()
        has_class = yb != IGNORED  # (B, *target_shape)
        count += int(has_class.sum())
        if yb.ndim > 1:
            counts = _confusion(yb[has_class], predicted[has_class], logits.shape[1])
            confusion = counts if confusion is None else confusion + counts
    network.train(was_training)
    return Result(loss / count, correct / count, None if confusion is None else mean_iou(confusion))


def mean_iou(confusion: Tensor) -> float:
    """Return the intersection over union of each class, averaged over the classes that occur.

    With c[i, j] the number of pixels of class i that were predicted as class j:
        IoU_i = c[i, i] / (sum of row i + sum of column i - c[i, i])

    Source: Everingham et al. 2015, International Journal of Computer Vision 111, section 4.1.3.

    Args:
        confusion: counts, (classes, classes), not all zero. Classes that occur neither in the masks nor in the
            predictions do not count.
    """
    counts = confusion.cpu().double()  # not every accelerator has float64
    intersection = counts.diagonal()
    union = counts.sum(0) + counts.sum(1) - intersection
    occurs = union > 0
    return (intersection[occurs] / union[occurs]).mean().item()


def _confusion(y: Tensor, predicted: Tensor, classes: int) -> Tensor:
    """Count pixels, (pixels,), by true and predicted class: (classes, classes), int64."""
    return torch.bincount(y * classes + predicted, minlength=classes**2).reshape(classes, classes)
