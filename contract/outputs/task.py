"""What the outputs of a network mean, where they are not the logits of classes."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field, field_validator

from normfold.contract.record import Record

DEFAULT_THRESHOLD = 0.5
"""Probability from which a label is given."""


class Target(Record):
    """A value that a network predicts. Its statistics are of the training split, in its unit."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str
    unit: str | None = Field(default=None, description="Such as °C; null: not known.")
    mean: float
    std: float = Field(gt=0, description="Standard deviation.")


class Regression(Record):
    """The values of an output, (rows, targets), are predictions in the units of the targets."""

    metric: ClassVar[str] = "r2"

    kind: Literal["regression"] = "regression"
    output: str = Field(description="Name of the output.")
    targets: tuple[Target, ...] = Field(min_length=1, description="In the order of the output's values.")

    @field_validator("targets")
    @classmethod
    def _check_names(cls, targets: tuple[Target, ...]) -> tuple[Target, ...]:
        names = [target.name for target in targets]
        if len(set(names)) < len(names):
            raise ValueError("two targets have the same name")
        return targets


class MultiLabel(Record):
    """The values of an output, (rows, labels), are logits of labels that do not exclude each other.

    The sigmoid of each is the probability of its label; the names are the card's labels.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    metric: ClassVar[str] = "f1"

    kind: Literal["multi-label"] = "multi-label"
    output: str = Field(description="Name of the output.")
    threshold: float = Field(
        default=DEFAULT_THRESHOLD, gt=0, lt=1, description="Probability from which a label is given."
    )


OutputTask = Annotated[Regression | MultiLabel, Field(discriminator="kind")]
