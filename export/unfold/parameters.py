"""Parameters of a BatchNormalization that is put behind a folded layer.

Its gain should be 1 and its offset the bias that the layer had, so that a fold gives back the layer as it was:

    gain = scale / sqrt(var + epsilon)        offset = shift - gain * mean

Rounded to the nearest, the four would make the gain 1 within a unit in the last place, and the offset the bias within a
unit of the mean, which may be thousands of the bias's. So scale and variance are chosen among their neighbours:

    gain 1     scale with half as many digits as its dtype has, epsilon a power of two: var = scale² - epsilon is exact
    gain 1 + r / mean    where the mean is larger than the bias: r is the rounding of shift, and is taken away again

In float32 the variance moves by a hundredth of itself at most, less than some hundred samples can tell.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from normfold.export.arrays import Array

EPSILON_EXPONENT = -17
"""Of 2: 7.6e-6, the power of two next to the usual 1e-5."""

FEW, MANY = 2**10, 2**15
"""Scales that are tried on either side of the nearest: for all channels, and then for those whose bias is not met."""

_BITS_APART = {FEW: 2, MANY: 0}
"""How many bits above the last place they are apart."""

_BITS_OF_REACH = 6
"""They differ from the nearest by 2 to the power of minus this at most, relatively."""

_BLOCK = 128
"""Channels whose scales are in memory at once."""


@dataclass(frozen=True, eq=False)
class Parameters:
    """Parameters of one BatchNormalization, each (C,), float64, and as its dtype holds them."""

    scale: Array
    shift: Array
    running_mean: Array
    running_var: Array
    epsilon: float

    @property
    def are_finite(self) -> bool:
        """Return whether every number is finite."""
        return all(np.isfinite(array).all() for array in self.arrays)

    @property
    def arrays(self) -> tuple[Array, Array, Array, Array]:
        """The four in the order of the node's inputs."""
        return self.scale, self.shift, self.running_mean, self.running_var

    def add_only(self, bias: Array, dtype: ir.DataType) -> bool:
        """Return whether a fold of these changes a layer's weight and bias by two units in the last place at most."""
        gain = self.scale / np.sqrt(self.running_var + self.epsilon)
        offset = (self.shift - gain * self.running_mean).astype(dtype.numpy()).astype(np.float64)
        with np.errstate(divide="ignore"):  # a bias of 0 allows nothing
            allowed = 2 * precision(dtype) * np.exp2(np.floor(np.log2(np.abs(bias))))
        return bool((np.abs(offset - bias) <= allowed).all() and (np.abs(gain - 1) <= 2 * precision(dtype)).all())


def precision(dtype: ir.DataType) -> float:
    """Return the distance from 1 to the next larger number of a float dtype; NumPy does not know bfloat16's."""
    return 2.0**-7 if dtype == ir.DataType.BFLOAT16 else float(np.finfo(dtype.numpy()).eps)


def parameter_dtype(value: ir.Value, opset: int) -> ir.DataType | None:
    """Return the dtype of the parameters behind a value, or None where BatchNormalization has none for it.

    Below opset 15 it is the value's own; from there on float32 serves narrower values too.
    """
    if value.dtype in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16) and opset >= 15:
        return ir.DataType.FLOAT
    return value.dtype if value.dtype in (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16) else None


def neutral_parameters(channels: int, dtype: ir.DataType) -> Parameters:
    """Return the parameters of a BatchNormalization that changes nothing, with statistics to be replaced."""
    return bias_parameters(np.zeros(channels), np.ones(channels), np.zeros(channels), dtype)


def bias_parameters(mean: Array, var: Array, bias: Array, dtype: ir.DataType) -> Parameters:
    """Return the parameters of a BatchNormalization that adds a bias, and has the statistics of what it is given.

    Args:
        mean: (C,), float64, of its input.
        var: (C,), float64, biased.
        bias: (C,), float64.
        dtype: of the parameters.
    """
    limits = np.finfo(dtype.numpy())

    def rounded(array: Array) -> Array:
        return array.astype(dtype.numpy()).astype(np.float64)

    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        epsilon = 2.0 ** (_epsilon_exponent(var, limits.nmant + 1) if (bias == 0).any() else EPSILON_EXPONENT)
        own_mean = rounded(mean)
        shift = rounded(own_mean + bias)
        rest = shift - bias - own_mean
        gain = np.where(np.abs(bias) < np.abs(own_mean), 1 + rest / own_mean, 1.0)
        root = np.sqrt(var + epsilon)
        blocks = [slice(start, start + _BLOCK) for start in range(0, var.size, _BLOCK)]
        found = [_scale_and_variance(root[block], gain[block], epsilon, dtype) for block in blocks]
        scale, own_var = (np.concatenate(parts) for parts in zip(*found, strict=True))
        error = np.abs((scale / np.sqrt(own_var + epsilon) - gain) * own_mean)
        is_met = (error <= precision(dtype) * np.abs(bias) / 2) | (dtype == ir.DataType.DOUBLE)  # a gain is no finer
        for channel in np.flatnonzero(~is_met):
            one = slice(channel, channel + 1)
            scale[one], own_var[one] = _scale_and_variance(root[one], gain[one], epsilon, dtype, MANY)
    return Parameters(scale, shift, own_mean, own_var, epsilon)


def _epsilon_exponent(var: Array, digits: int) -> int:
    """Return the exponent of epsilon: so large that the largest variance plus epsilon fits the digits of the dtype."""
    peak = float(np.sqrt(var.max(initial=0.0) + 2.0**EPSILON_EXPONENT))
    return max(EPSILON_EXPONENT, 2 * int(np.floor(np.log2(peak))) + 2 - digits) if np.isfinite(peak) else 0


def _scale_and_variance(
    scale: Array, gain: Array, epsilon: float, dtype: ir.DataType, count: int = FEW
) -> tuple[Array, Array]:
    """Return scale and variance, of all that are tried, whose gain is nearest to the one that is wanted.

    Args:
        scale: (C,), the root of variance plus epsilon.
        gain: (C,), near 1.
        epsilon: of the BatchNormalization.
        dtype: of both.
        count: FEW or MANY.
    """
    digits = np.finfo(dtype.numpy()).nmant + 1
    candidates = [_with_half_the_digits(scale, epsilon, (digits - 2) // 2)]
    if (gain != 1).any():
        bits = _BITS_APART[count]
        reach = min(count, 2 ** (digits - bits - _BITS_OF_REACH))
        steps = np.arange(-reach, reach + 1)[:, None] * 2.0 ** (bits - digits)
        candidates = [*candidates, *(scale * (1 + steps)).astype(dtype.numpy()).astype(np.float64)]
    tried = np.stack(candidates)  # (candidates, C)
    variances = np.maximum((tried / gain) ** 2 - epsilon, 0).astype(dtype.numpy()).astype(np.float64)
    chosen = np.abs(tried / np.sqrt(variances + epsilon) - gain).argmin(axis=0)
    channels = np.arange(scale.size)
    return tried[chosen, channels], variances[chosen, channels]


def _with_half_the_digits(scale: Array, epsilon: float, digits: int) -> Array:
    """Return scales of so many digits, whose squares are no smaller than epsilon."""
    unit = 2.0 ** (np.floor(np.log2(scale)) - (digits - 1))
    short = np.rint(scale / unit) * unit
    return np.where(short**2 < epsilon, short + unit, short)
