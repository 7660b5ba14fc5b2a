"""The figures of an epoch, and the file that collects them, one JSON line each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from normfold.contract.atomic_write import write_atomically
from normfold.models.errors import RunFolderError

METRICS_NAME = "metrics.jsonl"


@dataclass(frozen=True)
class Result:
    """Mean loss (nats) and accuracy over some rows, or over all of their pixels where those are labelled."""

    loss: float
    accuracy: float
    mean_iou: float | None = None
    """Of masks, in evaluation: see `mean_iou`."""


class EpochMetrics(BaseModel):
    """One line of metrics.jsonl."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epoch: int = Field(description="From 1.")
    lr: float = Field(description="Learning rate of the epoch's last step.")
    train_loss: float = Field(description="Mean over the epoch, in train mode, without label smoothing.")
    train_accuracy: float = Field(description="Mean over the epoch, in train mode.")
    validation_loss: float = Field(description="After the epoch, in eval mode, without label smoothing.")
    validation_accuracy: float = Field(description="After the epoch, in eval mode.")
    validation_mean_iou: float | None = Field(
        default=None,
        exclude_if=lambda value: value is None,
        description="Of masks: after the epoch, in eval mode; left out where there are none.",
    )
    seconds: float = Field(description="The epoch took, with its validation.")


def mean_iou(confusion: Tensor) -> float:
    """Return intersection over union of each class, averaged over the classes that occur.

    With c[i, j] the number of pixels of class i that were taken for class j:
        IoU_i = c[i, i] / (sum of row i + sum of column i - c[i, i])

    Source: Everingham et al. 2015, International Journal of Computer Vision 111, section 4.1.3.

    Args:
        confusion: (classes, classes), counts; not all zero. A class that neither stands in a mask nor was predicted is
            left out of the mean.
    """
    counts = confusion.cpu().double()  # not every accelerator has float64
    intersection = counts.diagonal()
    union = counts.sum(0) + counts.sum(1) - intersection
    occurs = union > 0
    return (intersection[occurs] / union[occurs]).mean().item()


def append_metrics(folder: Path, metrics: EpochMetrics) -> None:
    """Add one line."""
    with (folder / METRICS_NAME).open("a", encoding="utf-8") as file:
        file.write(metrics.model_dump_json() + "\n")


def read_metrics(folder: Path, last_epoch: int) -> list[EpochMetrics]:
    """Read the lines of epochs 1 to `last_epoch`; later lines, of an epoch that left no checkpoint, are passed over.

    Raises:
        RunFolderError: one of those lines is missing or damaged.
    """
    path = folder / METRICS_NAME
    lines = path.read_bytes().splitlines()[:last_epoch] if path.exists() else []
    try:
        records = [EpochMetrics.model_validate_json(line) for line in lines]
    except ValidationError:
        raise RunFolderError(folder, f"holds a damaged {METRICS_NAME}; it cannot be resumed.") from None
    if [record.epoch for record in records] != list(range(1, last_epoch + 1)):
        raise RunFolderError(folder, f"lacks epochs in {METRICS_NAME} that its checkpoint has; it cannot be resumed.")
    return records


def rewrite_metrics(folder: Path, records: list[EpochMetrics]) -> None:
    """Leave exactly these lines."""
    lines = "".join(record.model_dump_json() + "\n" for record in records)
    write_atomically(folder / METRICS_NAME, lines.encode())
