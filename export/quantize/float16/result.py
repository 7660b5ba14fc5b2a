"""What a conversion to float16 takes and gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from normfold.export.arrays import Array

MAX_FLOAT16 = float(np.finfo(np.float16).max)
"""The largest finite float16: 65504."""


class ChannelStatistics(Protocol):
    """Mean and standard deviation of a value by channel, as the parameters of a folded BatchNormalization give them."""

    @property
    def mean(self) -> Array:
        """Shape (C,), float64."""

    @property
    def std(self) -> Array:
        """Shape (C,), float64, not negative."""

    @property
    def folded_value(self) -> str | None:
        """Name of the value in the folded graph; None where no value holds it."""


@dataclass(frozen=True)
class Float32Node:
    """A node that stays in float32: its label, its operator, and a sentence that says why."""

    node: str
    operator: str
    reason: str


@dataclass(frozen=True)
class Headroom:
    """How far the largest magnitude among the float16 values stays below 65504.

    Attributes:
        node: label of the node that makes the value; empty for an input or a constant.
        value: its name.
        magnitude: the largest absolute value found, on the inputs or by the statistics.
    """

    node: str
    value: str
    magnitude: float

    @property
    def factor(self) -> float:
        """By what factor the value may grow before it overflows."""
        return MAX_FLOAT16 / self.magnitude if self.magnitude else float("inf")


@dataclass(frozen=True)
class Float16Result:
    """The report of a conversion.

    Attributes:
        float32_nodes: nodes that stay in float32, in graph order, each with its reason.
        float16_nodes: number of nodes that compute in float16.
        casts: number of Cast nodes that were added.
        headroom: the smallest one; None where nothing is in float16.
        sqnr_db: signal to quantisation noise of each float output, emulated, against float32; infinite where both are
            equal.
        warnings: sentences.
    """

    float32_nodes: tuple[Float32Node, ...]
    float16_nodes: int
    casts: int
    headroom: Headroom | None
    sqnr_db: Mapping[str, float]
    warnings: tuple[str, ...] = field(default=())
