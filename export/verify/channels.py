"""Error and noise of each channel of an output, beside the channel's own range.

The range of an output is that of its widest channel. Where one channel is a million times as wide as another, any error
in the narrow one is small beside it. So error and noise are also measured for each index of axis 1, where ONNX has the
channels of (N, C) and (N, C, H, W), and of the last axis, where (N, T, C) and (N, H, W, C) have them.

Two errors are measured: the largest difference, and the absolute value of the mean difference. A wrong offset shifts
all values of a channel alike, and the mean finds it where it is hardly larger than a rounding of float16: of roundings
and of noise the mean is small.

    range of a channel    max - min of the original's values at its index, over all inputs, but at least its largest
                          magnitude, by which values are rounded; for the narrowest tenth of the channels that of the
                          tenth, since the range of few values may be small by chance
    of a still channel    whose max - min is within 8 times its noise or 8 roundings of its magnitude, as where the gain
                          is zero: the median range of the other channels
    noise of a channel    its own, or that of the noisiest channel if it is larger: by chance the perturbations may move
                          one channel less than the others; but at most 4 times what nine tenths of the channels stay
                          under, so that no channel hides the error of another

In a network with steps, such as quantisation, noise is a rare jump of a few values. There the noise of all channels is
that of the noisiest, without a limit, and means are left out.

    floor of a channel    4e-6 for float32: a sum over many channels of the layer before is rounded by its largest
                          partial sum; see `export.verify.tolerance` for the others

An axis is left out where an index has fewer than 8 values, where its size differs between the inputs, or where every
channel is still; its means, where an index has fewer than 32 values in one of the inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from normfold.export.arrays import Array, Tensor
from normfold.export.verify.tolerance import (
    CHANNEL_FLOORS,
    EPSILONS,
    NOISE_FACTOR,
    ChannelDifference,
    allowed_error,
    noise_of,
)

MIN_VALUES = 8
"""Values at an index, over all inputs, that give a range."""

_MIN_VALUES_OF_MEAN = 32
_MAXIMUM, _MEAN = "maximum", "mean"
_Statistics = dict[tuple[int, str], Array]
"""Errors at each index of an axis, by the axis and the kind of error."""

_SHARED_NOISE_CAP = 4.0
"""Noise that channels share, over that of nine tenths of them."""


def channel_axes(rank: int) -> list[int]:
    """Return the axes that may hold the channels of an output."""
    return sorted({1, rank - 1}) if rank > 1 else []


def values_at_an_index(tensors: Sequence[Tensor]) -> int:
    """Return the number of values at one index of the axis that has fewest of them; 0 where there are no channels."""
    axes = channel_axes(tensors[0].ndim)
    return min((sum(_values(tensor, axis) for tensor in tensors) for axis in axes), default=0)


def worst_channel(
    wanted: Sequence[Tensor],
    got: Sequence[Tensor],
    perturbed: Sequence[Sequence[Sequence[Tensor]]],
    shares: Sequence[float],
    further: Sequence[Tensor],
    has_steps: bool,
) -> ChannelDifference | None:
    """Return the difference of the channel whose error exceeds the allowed error most, None where none can be measured.

    Args:
        wanted: the original's tensor for each input; where it is finite, the others are finite too.
        got: the folded model's, of the same shapes.
        perturbed: for each input the original's, perturbed, in groups.
        shares: for each group, how much of what it moves counts as noise.
        further: the original's for further inputs, which count for the ranges.
        has_steps: the network's values jump where others cross a threshold.
    """
    values = [*wanted, *further]
    axes = [axis for axis in channel_axes(wanted[0].ndim) if _has_channels(values, axis)]
    errors = [_statistics(original, folded, axes) for original, folded in zip(wanted, got, strict=True)]
    noises = [
        [[_statistics(original, other, axes) for other in group] for group in groups]
        for original, groups in zip(wanted, perturbed, strict=True)
    ]
    found = []
    for axis in axes:
        maximum = _Measured((axis, _MAXIMUM), errors, noises, shares)
        ranges = _Ranges.of(values, axis, maximum.noise.max(axis=0))
        if ranges is None:
            continue
        found.append(maximum.worst(ranges, wanted[0], np.inf if has_steps else _SHARED_NOISE_CAP))
        if not has_steps and min(_values(tensor, axis) for tensor in wanted) >= _MIN_VALUES_OF_MEAN:
            found.append(_Measured((axis, _MEAN), errors, noises, shares).worst(ranges, wanted[0]))
    return max(found, key=lambda each: each.excess, default=None)


def _has_channels(values: Sequence[Tensor], axis: int) -> bool:
    """Return whether an axis has several indices, as many in each tensor, and enough values at each."""
    sizes = {tensor.shape[axis] for tensor in values}
    return len(sizes) == 1 and min(sizes) > 1 and sum(_values(tensor, axis) for tensor in values) >= MIN_VALUES


class _Measured:
    """Errors and noise for each input and channel, (inputs, channels), absolute."""

    def __init__(
        self,
        key: tuple[int, str],
        errors: Sequence[_Statistics],
        noises: Sequence[Sequence[Sequence[_Statistics]]],
        shares: Sequence[float],
    ) -> None:
        def noise(groups: Sequence[Sequence[_Statistics]]) -> Array:
            movements = (np.array([one[key] for one in group]) for group in groups)
            found = [noise_of(each, share) for each, share in zip(movements, shares, strict=True) if each.size]
            return np.asarray(np.max(found, axis=0))

        self._axis, self._is_mean = key[0], key[1] == _MEAN
        self.error = np.array([one[key] for one in errors])
        self.noise = np.array([noise(groups) for groups in noises])

    def worst(self, ranges: _Ranges, output: Tensor, cap: float = _SHARED_NOISE_CAP) -> ChannelDifference:
        """Return the difference of the channel and input where the error exceeds the allowed error most."""
        error, noise = self.error / ranges.span, self.noise / ranges.span
        noise = np.maximum(noise, _shared_noise(noise[:, ranges.moves], cap))
        floor = CHANNEL_FLOORS[output.dtype.name]
        row, index = np.unravel_index(np.argmax(error / allowed_error(noise, floor)), error.shape)
        return ChannelDifference(
            float(error[row, index]),
            float(noise[row, index]),
            floor,
            self._axis,
            int(index),
            self._is_mean,
            input_index=int(row),
        )


@dataclass(frozen=True)
class _Ranges:
    """The range of each channel, as the module's docstring defines it, and whether the channel moves."""

    span: Array
    moves: npt.NDArray[np.bool_]

    @staticmethod
    def of(values: Sequence[Tensor], axis: int, noise: Array) -> _Ranges | None:
        """Return the ranges of an output's channels, None if no channel moves.

        Args:
            values: the output for each input; what is not finite does not count.
            axis: of the channels.
            noise: (channels,), absolute.
        """
        high, minus_low = (np.max([_highest_finite(one, axis, sign) for one in values], axis=0) for sign in (1.0, -1.0))
        is_known = np.isfinite(high)
        high, minus_low = np.where(is_known, high, 0.0), np.where(is_known, minus_low, 0.0)
        magnitude, width = np.maximum(np.abs(high), np.abs(minus_low)), high + minus_low
        moves = width > NOISE_FACTOR * np.maximum(noise, EPSILONS[values[0].dtype.name] * magnitude)
        if not moves.any():
            return None
        span = np.maximum(width, magnitude)
        tenth, median = np.quantile(span[moves], [0.1, 0.5], method="lower")
        return _Ranges(np.maximum(span, np.where(moves, tenth, median)), moves)


def _shared_noise(noise: Array, cap: float) -> Array:
    """Return the noise that the channels share, (inputs, 1), from that of those that move, (inputs, channels)."""
    highest = noise.max(axis=1, keepdims=True)
    if np.isinf(cap):
        return np.asarray(highest)
    quantile = np.quantile(noise, 0.9, axis=1, method="lower", keepdims=True)
    return np.asarray(np.minimum(highest, cap * quantile))


def _values(tensor: Tensor, axis: int) -> int:
    """Return the number of values at one index of an axis."""
    return int(tensor.size // max(tensor.shape[axis], 1))


def _statistics(wanted: Tensor, got: Tensor, axes: Sequence[int]) -> _Statistics:
    """Return the largest difference at each index of some axes, and the absolute value of the mean one."""
    difference = _difference(wanted, got)
    found = {}
    for axis in axes:
        others = _other_axes(difference, axis)
        found[axis, _MAXIMUM] = np.abs(difference).max(axis=others, initial=0.0)
        found[axis, _MEAN] = np.abs(difference.mean(axis=others)) if difference.size else np.zeros(wanted.shape[axis])
    return found


def _difference(wanted: Tensor, got: Tensor) -> Array:
    """Return the difference of two tensors; 0 where the first is not finite, as the second is the same."""
    zeros = np.zeros(wanted.shape)
    return np.subtract(got.astype(np.float64), wanted.astype(np.float64), out=zeros, where=np.isfinite(wanted))


def _highest_finite(tensor: Tensor, axis: int, sign: float) -> Array:
    """Return the largest finite value at each index of an axis, of the tensor times a sign."""
    values = np.where(np.isfinite(tensor), sign * tensor.astype(np.float64), -np.inf)
    return np.asarray(values.max(axis=_other_axes(tensor, axis), initial=-np.inf))


def _other_axes(array: Tensor, axis: int) -> tuple[int, ...]:
    return tuple(other for other in range(array.ndim) if other != axis)
