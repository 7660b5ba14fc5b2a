"""The metrics of each epoch, and `metrics.jsonl`, which holds them with one JSON line per epoch."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from normfold.contract.atomic_write import write_atomically
from normfold.models.errors import RunFolderError

METRICS_NAME = "metrics.jsonl"


class EpochMetrics(BaseModel):
    """One line of metrics.jsonl."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epoch: int = Field(description="Number of the epoch, from 1.")
    lr: float = Field(description="Learning rate of the epoch's last step.")
    train_loss: float = Field(description="Mean over the epoch, in train mode, without label smoothing.")
    train_accuracy: float = Field(description="Mean over the epoch, in train mode.")
    validation_loss: float = Field(description="After the epoch, in eval mode, without label smoothing.")
    validation_accuracy: float = Field(description="After the epoch, in eval mode.")
    validation_mean_iou: float | None = Field(
        default=None,
        exclude_if=lambda value: value is None,
        description="For masks, after the epoch, in eval mode; otherwise absent.",
    )
    seconds: float = Field(description="Duration of the epoch, with its validation.")


def append_metrics(folder: Path, metrics: EpochMetrics) -> None:
    """Append the line of an epoch to the metrics.jsonl of a run folder."""
    with (folder / METRICS_NAME).open("a", encoding="utf-8") as file:
        file.write(metrics.model_dump_json() + "\n")


def read_metrics(folder: Path, last_epoch: int) -> list[EpochMetrics]:
    """Read the metrics of epochs 1 to `last_epoch`; a later line, of an epoch whose state was not written, is ignored.

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
    """Replace the metrics.jsonl of a run folder."""
    lines = "".join(record.model_dump_json() + "\n" for record in records)
    write_atomically(folder / METRICS_NAME, lines.encode())
