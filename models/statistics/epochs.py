"""Differences between batch and running statistics after each epoch, and `batchnorm.jsonl`, one JSON line per epoch."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from normfold.contract.atomic_write import write_atomically

STATISTICS_NAME = "batchnorm.jsonl"

PLOT_NAME = "batchnorm.png"


class LayerFigures(BaseModel):
    """Figures of one BatchNorm after an epoch; the first three in standard deviations, null where not measured."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    batch: float | None = Field(description="Mean statistics of the last batches against the running statistics.")
    noise: float | None = Field(description="Statistics of each of the last batches against their mean.")
    inference: float | None = Field(
        description="Statistics of validation inputs in eval mode against the running statistics."
    )
    variance_ratio: float | None = Field(
        description="Variance of validation inputs in eval mode over the running variance, median over channels."
    )
    batches: int = Field(description="Batches that the running statistics have seen.")

    @property
    def difference(self) -> float:
        """The larger of `batch` and `inference`; 0 where neither was measured."""
        return max(self.batch or 0.0, self.inference or 0.0)


class EpochStatistics(BaseModel):
    """One line of batchnorm.jsonl."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epoch: int = Field(description="Number of the epoch, from 1.")
    layers: dict[str, LayerFigures] = Field(description="By name of the layer, in order of registration.")


def append_statistics(folder: Path, statistics: EpochStatistics) -> None:
    """Append the line of an epoch to the batchnorm.jsonl of a run folder."""
    with (folder / STATISTICS_NAME).open("a", encoding="utf-8") as file:
        file.write(statistics.model_dump_json() + "\n")


def read_statistics(folder: Path, last_epoch: int) -> list[EpochStatistics]:
    """Read the figures of the epochs up to `last_epoch`; lines that are damaged or of a later epoch are left out.

    A run does not need them to be resumed, so nothing is raised.
    """
    path = folder / STATISTICS_NAME
    records: dict[int, EpochStatistics] = {}
    for line in path.read_bytes().splitlines() if path.is_file() else []:
        try:
            record = EpochStatistics.model_validate_json(line)
        except ValidationError:
            continue
        if record.epoch <= last_epoch:
            records[record.epoch] = record
    return list(records.values())


def rewrite_statistics(folder: Path, records: list[EpochStatistics]) -> None:
    """Replace the batchnorm.jsonl of a run folder; without records there is none."""
    if not records:
        (folder / STATISTICS_NAME).unlink(missing_ok=True)
        return
    lines = "".join(record.model_dump_json() + "\n" for record in records)
    write_atomically(folder / STATISTICS_NAME, lines.encode())
