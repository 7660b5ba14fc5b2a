"""The source card: the facts about a network that its graph does not hold, as a JSON file beside `model.onnx`.

`normfold train` and `to_onnx` write it, `normfold export` copies it into the manifest.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import ConfigDict, Field

from normfold.contract.outputs.task import OutputTask
from normfold.contract.preprocess import Preprocessing, SequencePreprocessing
from normfold.contract.record import Record, read_json_object, validate_record
from normfold.contract.tables.preprocessing import TablePreprocessing

IGNORED = -100
"""In place of a class, in masks of training data: the pixel has none. It is the value that torch's loss ignores."""


class LayerStatisticsChange(Record):
    """The change of one BatchNorm's running statistics by recalibration; null where the old ones are not finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    layer: str
    mean_shift: float | None = Field(
        description="Maximum over the channels of |new mean - old mean| / sqrt(old variance + epsilon)."
    )
    variance_ratio: tuple[float, float] | None = Field(
        description="Minimum and maximum over the channels of (new variance + epsilon) / (old variance + epsilon)."
    )


class RunningStatistics(Record):
    """The result of recalibrating the running statistics over the training split, with the weights frozen."""

    samples: int = Field(description="Rows of the training split.")
    taken: bool = Field(
        description="True: the network has the recalibrated statistics. False: the metric fell on the validation "
        "split, and the network keeps the statistics of its training."
    )
    metric: str = Field(
        default="accuracy",
        exclude_if=lambda name: name == "accuracy",
        description="Name of the metric that `accuracy_before` and `accuracy_after` hold, more is better; absent for "
        "accuracy.",
    )
    accuracy_before: dict[str, float] = Field(description="By split: validation, which decides, and test.")
    accuracy_after: dict[str, float] = Field(description="By split, with the recalibrated statistics.")
    layers: tuple[LayerStatisticsChange, ...] = Field(description="In the order in which the network calls them.")


class WeightsRecord(Record):
    """The weights file that training started from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="Of the file, or of the run folder, without the folders around it.")
    sha256: str = Field(description="Hexadecimal; of several shards, of their bytes one after the other.")


class SourceCard(Record):
    """Facts about a network that its graph does not hold. Every field is optional."""

    preprocessing: Preprocessing | None = Field(
        default=None, description="From a raw input to the network's tensor; null if raw inputs are tensors."
    )
    labels: tuple[str, ...] | None = Field(default=None, description="Names of the classes or labels, in order.")
    logits: tuple[str, ...] = Field(
        default=(), description="Outputs that are logits: softmax makes them probabilities."
    )
    task: OutputTask | None = Field(
        default=None,
        exclude_if=lambda task: task is None,
        description="What an output means that holds predicted values, or logits of labels that do not exclude each "
        "other; absent for classes.",
    )
    metrics: dict[str, float] = Field(
        default_factory=dict, description="Loss and metrics on the validation and test splits, at training."
    )
    origin: str = Field(default="", description="Architecture and data set, in words.")
    running_statistics: RunningStatistics | None = Field(
        default=None,
        exclude_if=lambda record: record is None,
        description="Recalibration before export; absent where the statistics are those of training.",
    )
    initial_weights: WeightsRecord | None = Field(
        default=None,
        exclude_if=lambda record: record is None,
        description="Weights that training started from; absent where they were random, or the factory's own.",
    )

    @property
    def metric(self) -> str:
        """Name of the metric that networks are compared by; more is better."""
        return "accuracy" if self.task is None else self.task.metric

    @property
    def schema_version(self) -> int:
        """The oldest schema version of a manifest that can hold this card."""
        if self.task is not None or isinstance(self.preprocessing, TablePreprocessing):
            return 5
        if self.initial_weights is not None:
            return 4
        of_3 = isinstance(self.preprocessing, SequencePreprocessing) or self.running_statistics is not None
        return 3 if of_3 else 1


def read_source_card(path: Path) -> SourceCard:
    """Read the card beside an unfolded model.

    Raises:
        ManifestError: unreadable, not JSON, or a field is wrong.
    """
    return validate_record(SourceCard, read_json_object(path), path)
