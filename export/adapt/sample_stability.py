"""Stability of the samples: their first half is compared with their second, layer by layer.

One sample is one observation, however many pixels it has: pixels
of one picture are alike, so for each channel

    m_s    mean over the sample
    q_s    mean squared distance from the mean of all samples

are compared between the halves. With Δ the difference of the halves' means of m (or q), se its standard error from the
scatter within the halves, and v the channel's variance plus epsilon, over the channels of a layer:

    gap    sqrt(mean Δ² / v)                        in standard deviations (for q: sqrt(mean Δ² / v²), relative)
    z      sqrt(mean(Δ² / v) / mean(se² / v))       about 1 by chance, whatever the correlation between channels

The halves differ where a gap is both statistically significant (z) and large enough to matter (gap).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from normfold.export.arrays import Array

MIN_SAMPLES = 4
"""Samples: halves of two, within which there is scatter."""

MAX_Z = 4.0
MAX_GAP = 0.25


@dataclass(frozen=True)
class Gap:
    """The distance of the halves in standard deviations (`gap`), and its z-score (`z`)."""

    gap: float
    z: float

    @property
    def is_significant(self) -> bool:
        """Return whether `z` exceeds MAX_Z and `gap` exceeds MAX_GAP."""
        return self.z > MAX_Z and self.gap > MAX_GAP


@dataclass(frozen=True)
class SampleStability:
    """The gap between the halves' means, and between their variances."""

    means: Gap
    variances: Gap


def measure_stability(means: Array, variances: Array, epsilon: float) -> SampleStability:
    """Compare the first half of the samples with the second.

    Args:
        means: (N, C), float64, of each sample and channel, in the order in which the samples came.
        variances: (N, C), float64, within the sample, biased.
        epsilon: of the layer.

    Raises:
        ValueError: there are fewer than MIN_SAMPLES samples.
    """
    if len(means) < MIN_SAMPLES:
        raise ValueError(f"{len(means)} samples have no halves to compare; {MIN_SAMPLES} are needed")
    distances = variances + (means - means.mean(axis=0)) ** 2
    variance = distances.mean(axis=0) + epsilon
    return SampleStability(_gap(means / np.sqrt(variance)), _gap(distances / variance))


def _gap(values: Array) -> Gap:
    first, second = values[: len(values) // 2], values[len(values) // 2 :]
    gap = float(np.mean((first.mean(axis=0) - second.mean(axis=0)) ** 2))
    expected = float(np.mean(sum(half.var(axis=0, ddof=1) / len(half) for half in (first, second))))
    return Gap(math.sqrt(gap), math.sqrt(gap / expected) if expected else math.inf if gap else 0.0)
