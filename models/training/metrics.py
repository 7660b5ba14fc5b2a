"""The metrics of each epoch, and `metrics.jsonl`, which holds them with one JSON line per epoch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_serializer, model_validator

from normfold.contract.atomic_write import write_atomically
from normfold.models.errors import RunFolderError

METRICS_NAME = "metrics.jsonl"

_SPLITS = ("train", "validation")


class EpochMetrics(BaseModel):
    """One line of metrics.jsonl, where the metrics of a split have its name before theirs: `validation_loss`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epoch: int = Field(description="Number of the epoch, from 1.")
    lr: float = Field(description="Learning rate of the epoch's last step.")
    train: dict[str, float] = Field(description="Loss and metrics by name: means over the epoch, in train mode.")
    validation: dict[str, float] = Field(description="Loss and metrics by name, after the epoch, in eval mode.")
    seconds: float = Field(description="Duration of the epoch, with its validation.")

    @property
    def train_loss(self) -> float:
        """Loss on the training split."""
        return self.train["loss"]

    @property
    def validation_loss(self) -> float:
        """Loss on the validation split."""
        return self.validation["loss"]

    @model_validator(mode="before")
    @classmethod
    def _nest(cls, flat: Any) -> Any:
        if not isinstance(flat, dict) or any(split in flat for split in _SPLITS):
            return flat
        nested: dict[str, Any] = {split: {} for split in _SPLITS}
        for name, value in flat.items():
            split, _, metric = name.partition("_")
            if split in _SPLITS and metric:
                nested[split][metric] = value
            else:
                nested[name] = value
        if any("loss" not in nested[split] for split in _SPLITS):
            raise ValueError("a loss is missing")
        return nested

    @model_serializer
    def _flatten(self) -> dict[str, int | float]:
        metrics = {f"{split}_{name}": value for split in _SPLITS for name, value in getattr(self, split).items()}
        return {"epoch": self.epoch, "lr": self.lr, **metrics, "seconds": self.seconds}


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
