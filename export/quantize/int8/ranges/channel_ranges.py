"""What is known of a network's values before they are quantised: least, greatest and mean of each channel."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from normfold.export.arrays import Array, Tensor


@dataclass(frozen=True, eq=False)
class ChannelRange:
    """Least, greatest and mean of each channel (axis 1) of a value, each (C,), float64; C is 1 below rank 2."""

    low: Array
    high: Array
    mean: Array

    @property
    def bounds(self) -> tuple[float, float]:
        """Least and greatest of all channels."""
        return float(self.low.min()), float(self.high.max())

    @property
    def extent(self) -> Array:
        """Largest magnitude of each channel, (C,)."""
        extent: Array = np.maximum(np.abs(self.low), np.abs(self.high))
        return extent

    def scaled(self, factor: Array) -> ChannelRange:
        """Return the range of the value times a positive factor for each channel, (C,)."""
        return ChannelRange(self.low * factor, self.high * factor, self.mean * factor)


Ranges = Mapping[str, ChannelRange]
"""By name of the value."""


class RangeMeter:
    """Least, greatest, mean and standard deviation of each channel, over pieces of a value."""

    def __init__(self) -> None:
        self._count = 0
        self._low: Array | None = None
        self._high: Array | None = None
        self._sum: Array | float = 0.0
        self._square: Array | float = 0.0

    def add(self, array: Tensor, counted: int | None = None) -> None:
        """Add a piece, rows first; only its first `counted` rows count for mean and standard deviation."""
        low, high = (by_channel(array, function) for function in (np.min, np.max))
        self._low = low if self._low is None else np.minimum(self._low, low)
        self._high = high if self._high is None else np.maximum(self._high, high)
        part = np.atleast_1d(array)[:counted].astype(np.float64)
        if part.size:
            channels = part.shape[1] if part.ndim > 1 else 1
            self._count += part.size // channels
            with np.errstate(invalid="ignore", over="ignore"):  # the caller looks at the bounds
                self._sum = self._sum + by_channel(part, np.sum)
                self._square = self._square + by_channel(part**2, np.sum)

    @property
    def is_used(self) -> bool:
        """Return whether anything was added."""
        return self._low is not None

    def range(self) -> ChannelRange:
        """Return what was seen."""
        assert self._low is not None  # something was added
        assert self._high is not None
        mean = np.broadcast_to(np.asarray(self._sum / max(self._count, 1)), self._low.shape)
        return ChannelRange(self._low, self._high, mean)

    def std(self) -> Array:
        """Return the standard deviation of each channel, (C,)."""
        mean = self._sum / max(self._count, 1)
        std: Array = np.sqrt(np.maximum(self._square / max(self._count, 1) - mean**2, 0))
        return std


def by_channel(array: Tensor, reduce: Callable[..., Any]) -> Array:
    """Reduce an array over all axes but the channels' with one of numpy's functions, (C,), float64."""
    axes = tuple(axis for axis in range(array.ndim) if axis != 1)
    reduced: Array = np.atleast_1d(reduce(array, axis=axes)).astype(np.float64)
    return reduced
