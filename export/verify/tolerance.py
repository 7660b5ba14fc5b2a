"""The tolerance: how large an error is allowed, from the network's own noise and a floor.

    allowed    8 * noise + floor; nothing where noise has no bound
    floor      1e-6 for float32, two epsilons for float16 and bfloat16, 64 for float64

A fixed tolerance is wrong both ways: one rounding may change a deep, ill-conditioned network by 1e-2 and a shallow one
by 1e-7. What error and noise are, and how they are measured, stands in `export.verify.measure`.

An output whose range is small beside its values is rounded more coarsely than its range suggests. So the floor is at
least one unit in the last place of its largest magnitude, relative to the range.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from normfold.export.arrays import Array, Tensor

NOISE_FACTOR = 8.0
"""Allowed error for each unit of noise.

Quoted, as FLOOR is, in the docstrings of `normfold.fold` and `normfold.verify` and in the help of both commands; a test
compares them."""
FLOOR = 1e-6
"""Floor of a float32 output, relative to its range: 8.4 epsilons of float32."""
EPSILONS = {"float16": 2.0**-10, "bfloat16": 2.0**-7, "float32": 2.0**-23, "float64": 2.0**-52}
"""One unit in the last place of 1, by dtype."""
FLOORS = {"float16": 2 * EPSILONS["float16"], "bfloat16": 2 * EPSILONS["bfloat16"], "float64": 64 * EPSILONS["float64"]}
"""Floor of outputs of other dtypes, relative to their range."""
CHANNEL_FLOORS = {**FLOORS, "float32": 4 * FLOOR, "float64": 4 * FLOORS["float64"]}
"""Floor of one channel of an output, relative to the channel's range."""


SHARE_OF_MAXIMUM = 0.25
"""How much of the largest movement counts as noise, where the typical one counts for less.

With `NOISE_FACTOR`, twice the largest movement that one unit in the last place was seen to cause is allowed."""

_Number = TypeVar("_Number", float, Array)


def noise_of(movements: Array, share: float = 1.0) -> Array:
    """Return the noise that perturbations show: the median movement, or a quarter of the largest if that is more.

    Args:
        movements: (perturbations, ...), at least one; one that is not finite does not count as the largest.
        share: how much of the median counts.

    Returns:
        (...), in the unit of the movements.
    """
    maximum = np.where(np.isfinite(movements), movements, 0.0).max(axis=0)
    return np.asarray(np.maximum(share * np.median(movements, axis=0), SHARE_OF_MAXIMUM * maximum))


def allowed_error(noise: _Number, floor: float) -> _Number:
    """Return the largest error that passes, for one noise or for an array of them, all finite."""
    return NOISE_FACTOR * noise + floor


def floor_of(tensor: Tensor, magnitude: float, span: float) -> float:
    """Return the floor of an output: by its dtype, and at least one unit in the last place of its largest magnitude.

    Args:
        tensor: of the output's dtype, a float.
        magnitude: its largest absolute value.
        span: what the floor is relative to.
    """
    name = tensor.dtype.name
    return max(FLOORS.get(name, FLOOR), EPSILONS[name] * magnitude / span)


@dataclass(frozen=True)
class Difference:
    """Error of a folded output, the original's noise, and the floor, all relative to the original's range.

    `input_index` says at which of the inputs.
    """

    error: float
    noise: float
    floor: float = FLOOR
    input_index: int = field(default=0, kw_only=True)

    @property
    def allowed(self) -> float:
        """Return the largest error that passes. Noise without bound allows nothing: then nothing can be verified."""
        return allowed_error(self.noise, self.floor) if np.isfinite(self.noise) else 0.0

    @property
    def excess(self) -> float:
        """Return error over allowed error: more than 1 does not pass."""
        return self.error / self.allowed if self.allowed and np.isfinite(self.error) else float("inf")

    @property
    def ratio(self) -> float:
        """Return error over noise; infinite where the network has none."""
        return self.error / self.noise if self.noise else float("inf") if self.error else 0.0

    @property
    def is_allowed(self) -> bool:
        """Return whether the error is at most what is allowed; a NaN error is not."""
        return bool(np.isfinite(self.noise)) and self.error <= self.allowed


@dataclass(frozen=True)
class ChannelDifference(Difference):
    """The same of one index of an output's axis, relative to the range of the original's values at that index.

    With `is_mean` the error is not the largest difference but the mean one, and so is the noise.
    """

    axis: int = 1
    index: int = 0
    is_mean: bool = False


@dataclass(frozen=True)
class OutputDifference(Difference):
    """The same of one output, relative to the output's range.

    `channel` is the channel whose error exceeds the allowed error most, None where there are no channels to measure.
    `is_constant` says that the original gave the same for every input that was tried.
    """

    channel: ChannelDifference | None = None
    is_constant: bool = False

    @property
    def passes(self) -> bool:
        """Return whether the error is allowed, in every channel too."""
        return self.is_allowed and (self.channel is None or self.channel.is_allowed)

    @property
    def worst(self) -> Difference:
        """Return the difference that exceeds the allowed error most: of the whole output, or of its worst channel."""
        return self if self.channel is None or self.channel.excess <= self.excess else self.channel
