"""The record of a network's precision in the manifest: how it was made, and how near it is to the float32 network.

`normfold adapt` makes the next version by the recipe; the service compares the proof's processor with its own.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from pydantic import ConfigDict, Field

from normfold.contract.record import Record

DEFAULT_MAX_DROP = 0.01
"""Largest loss of accuracy, or of agreement where there are no labels, that a network of lower precision may have."""


class PrecisionKind(StrEnum):
    """Precisions that a network can be exported in."""

    FLOAT32 = "float32"
    INT8 = "int8"
    FLOAT16 = "float16"


MIN_OUTPUT_DB = {PrecisionKind.INT8: 10.0, PrecisionKind.FLOAT16: 40.0}
"""Signal to noise of every output, on samples or on random rows: less is a fault of the conversion.

Whole networks were found at 26 to 38 dB in int8, and at 60 to 68 dB in float16."""


class _Numbers(Record):
    """A record whose numbers are finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


RowOrigin = Literal["samples", "held_out", "random"]
"""Where the rows come from that both networks are compared on."""


class Recipe(_Numbers):
    """Options by which the network was made, so that `normfold adapt` can repeat it."""

    ranges_from: Literal["statistics", "recorded", "samples"] = Field(
        default="statistics",
        description="int8: source of the ranges of activations: the BatchNormalization statistics; the data that "
        "export or adapt saw, on which they were recorded; or samples.",
    )
    sigmas: float = Field(
        default=8.0, gt=0, description="int8: half of the width of a range from statistics, in standard deviations."
    )
    equalise: bool = Field(
        default=True, description="int8: equalise the channels of pairs of layers whose ranges are far apart."
    )
    correct_bias: bool = Field(default=True, description="int8: correct the mean error that rounded weights make.")
    float16_io: bool = Field(default=False, description="float16: inputs and outputs are too; float32 otherwise.")
    max_drop: float = Field(default=DEFAULT_MAX_DROP, ge=0, le=1, description="Largest drop that was allowed.")
    force: bool = Field(default=False, description="int8: allowed where it is not faster than float32.")


class WorstLayer(_Numbers):
    """The value inside the network that differs most from the float32 network's."""

    value: str = Field(description="Name of the value in the float32 network.")
    sqnr_db: float


class Agreement(_Numbers):
    """Share of rows for which both networks give the same class; of masks, of pixels."""

    share: float = Field(ge=0, le=1)
    lower_bound: float = Field(ge=0, le=1, description="Wilson's bound of the share, at 95 % confidence, over rows.")
    upper_bound: float = Field(ge=0, le=1, description="Likewise; a network that is refused lies below it too.")


class AccuracyChange(_Numbers):
    """Accuracy of the float32 network and of this one on the same labelled rows."""

    before: float = Field(ge=0, le=1)
    after: float = Field(ge=0, le=1)

    @property
    def drop(self) -> float:
        """The loss; negative for a gain."""
        return self.before - self.after


class ValueChange(_Numbers):
    """Predicted values of the float32 network and of this one on the same rows; of several, those that differ most."""

    difference: float = Field(
        ge=0, description="Root mean square of the difference, in standard deviations of the value over training data."
    )
    r2_before: float | None = Field(default=None, description="R² of the float32 network; null without true values.")
    r2_after: float | None = Field(default=None, description="Likewise of this one.")

    @property
    def drop(self) -> float:
        """The loss of R²; without true values, what the difference alone may cost: its square."""
        if self.r2_before is None or self.r2_after is None:
            return self.difference**2
        return self.r2_before - self.r2_after


class PrecisionProof(_Numbers):
    """Comparison with the folded float32 network. SQNR: signal to quantisation noise ratio in dB, at most 200."""

    processor: str = Field(description="The processor that ran both, with its instructions for integers.")
    rows: int = Field(gt=0, description="Rows that both networks were compared on.")
    rows_from: RowOrigin = Field(
        description="held_out: validation and test rows of the data of a run folder. Random rows show faults of the "
        "conversion; they say nothing about accuracy."
    )
    outputs: dict[str, float] = Field(description="SQNR by output; of float16 with every value rounded to half.")
    worst_layer: WorstLayer | None = Field(default=None, description="Null where no layer can be compared.")
    pair_sum: float | None = Field(
        default=None,
        ge=0,
        description="int8: the maximum of 255 times a sum of two weights that are added in 16 bits; at most 32767.",
    )
    fused_sqnr_db: float | None = Field(
        default=None, description="int8: outputs with all optimisations of ONNX Runtime against outputs with none."
    )
    agreement: Agreement | None = Field(
        default=None, description="Null with random rows, or without outputs that hold classes."
    )
    accuracy: AccuracyChange | None = Field(default=None, description="Null without labels.")
    values: ValueChange | None = Field(
        default=None,
        exclude_if=lambda change: change is None,
        description="Of a regression; else absent.",
    )
    time_ratio: dict[int, float] = Field(
        default_factory=dict, description="Processor time of a run over float32's, on one thread, by number of rows."
    )
    size_ratio: float = Field(
        gt=0, description="Bytes of the model, with its weights, over those of the folded float32 network."
    )
    notes: tuple[str, ...] = Field(default=(), description="Further findings, one sentence each.")


class Precision(Record):
    """Precision of the network, where it is not that of the source."""

    kind: Literal[PrecisionKind.INT8, PrecisionKind.FLOAT16]
    from_version: int | None = Field(
        default=None,
        gt=0,
        description="The version that `normfold quantize` converted; null where an export or adaptation made it.",
    )
    recipe: Recipe
    range_rows: int | None = Field(
        default=None, gt=0, description="int8: rows of the data that ranges come from; null for those of statistics."
    )
    proof: PrecisionProof
