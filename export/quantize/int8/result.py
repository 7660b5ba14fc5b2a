"""What quantising to int8 is told, and what it reports."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class RangeSource(StrEnum):
    """Where the ranges of the activations come from."""

    SAMPLES = "samples"
    RECORDED = "recorded"
    STATISTICS = "statistics"


@dataclass(frozen=True)
class Int8Options:
    """How to quantise; the defaults are for every network.

    Args:
        sigmas: standard deviations on either side of a channel's mean that a range from statistics holds.
        rows: rows that are sampled from statistics.
        seed: of what is sampled.
        equalise: equalise the channels of pairs of layers that need it.
        correct_bias: correct the mean error that rounding the weights makes.
        keep: names of nodes that stay in float32.
    """

    sigmas: float = 8.0
    rows: int = 16
    seed: int = 0
    equalise: bool = True
    correct_bias: bool = True
    keep: tuple[str, ...] = ()


@dataclass(frozen=True)
class LayerSaturation:
    """The largest sum of two weights that are added in 16 bits, of one layer."""

    layer: str
    """The name of the node, or of its first output."""
    pair_sum: int
    """Of two quantised weights of the same sign that are neighbours; of one weight where a layer has no pairs."""

    @property
    def product(self) -> int:
        """The largest sum of two products with activations of 8 bits."""
        return self.pair_sum * 255

    @property
    def saturates(self) -> bool:
        """Return whether that sum may be beyond 16 bits."""
        return self.product > 32767


@dataclass(frozen=True)
class EqualisedPair:
    """Two layers whose channels between them were equalised."""

    first: str
    second: str
    spread_before: float
    """Largest over smallest range of the channels between them."""
    spread_after: float


@dataclass(frozen=True)
class Int8Result:
    """What was quantised, and how."""

    range_source: RangeSource
    layers: tuple[str, ...]
    """Names of the Conv, ConvTranspose, Gemm and MatMul nodes that run in int8."""
    equalised: tuple[EqualisedPair, ...]
    bias_corrected: tuple[str, ...]
    saturation: tuple[LayerSaturation, ...]
    """Of every layer, in graph order; none saturates."""
    ranges: dict[str, tuple[float, float]]
    """Of every value that was quantised: least and greatest."""
    warnings: tuple[str, ...] = ()
    """Sentences, such as that outputs are probabilities, which ranges without data clip."""
