"""A gain for each channel of a quantised weight: it goes into the scales, and where it is negative into the integers.

    positive gain g     scale' = g * scale
    negative gain g     scale' = -g * scale, and integers - zero point changes its sign:
                        q' = 2 z - q, if that is in the type's range everywhere, as for int8 without -128 around 0
                        or, for unsigned types, q' = max - q and z' = max - z

A scale is never negative and never zero: the standard does not forbid it, kernels that multiply integers do not expect
it. It is never subnormal either: a runtime may flush it to zero, and it has fewer digits.

Scales for each channel are those of the layer's outputs. The standard allows any axis, and the result is exact; but a
runtime that finds a DequantizeLinear at the layer's input too, and a QuantizeLinear behind it, makes one kernel of
integers of them, and takes a vector of scales for those of the outputs without a look at `axis`: ONNX Runtime 1.32's
QLinearConv and QGemm gave wrong results, or failed, with its optimisations on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from normfold.export.arrays import Array, Tensor, constant_axes_dropped
from normfold.export.fold.edits import Rewrite, input_name
from normfold.export.fold.weights.quantized import RANGES, Quantized
from normfold.export.graph.constants import DerivedConstant
from normfold.export.graph.nodes import opset_of

_FIRST_OPSET_WITH_AXIS = 13

_NORMAL = {
    ir.DataType.DOUBLE: (2.0**-1022, float(np.finfo(np.float64).max)),
    ir.DataType.FLOAT: (2.0**-126, float(np.finfo(np.float32).max)),
    ir.DataType.FLOAT16: (2.0**-14, 65504.0),
    ir.DataType.BFLOAT16: (2.0**-126, (2 - 2.0**-7) * 2.0**127),
}
"""The low and the high normal number of each float type."""


@dataclass(frozen=True, eq=False)
class _Scale:
    """Gain of each scale, in the shape that the scale gets, and the axis of a scale that becomes a vector."""

    gain: Array
    shape: tuple[int, ...]
    axis: int | None = None


def rescale(quantized: Quantized, factor: Array, output_axis: int | None) -> Rewrite | str:
    """Return the DequantizeLinear with other constants, so that its weight is the old one times `factor`.

    Args:
        quantized: the constants that it reads.
        factor: of the weight's rank, broadcasting against it, float64.
        output_axis: the weight's axis of the layer's outputs; None for an operator that has no kernel of integers.

    Returns:
        The rewrite; or the rest of a sentence that begins "the weight is quantised, and", which says why not.
    """
    factor = constant_axes_dropped(factor)
    if not np.all(factor):
        return "a gain of zero would make a scale zero"
    scale = _gain_of_scale(quantized, factor, output_axis)
    if isinstance(scale, str):
        return scale
    old = quantized.scale()
    steps = np.abs(scale.gain) * (old.reshape(()) if quantized.is_uniform else old)
    low, high = _NORMAL[quantized.scale_dtype]
    if np.any(np.abs(steps) < low) or np.any(np.abs(steps) > high):
        return f"a scale times its gain is not a normal number of type {quantized.scale_dtype.name.lower()}"
    constants = {1: _constant(quantized, 1, "scale", scale.shape, quantized.scale_dtype, steps)}
    zero_point = quantized.zero_point()
    negated = _negated(quantized, factor < 0, scale.gain < 0) if np.any(factor < 0) else None
    if isinstance(negated, str):
        return negated
    if negated is not None or not quantized.is_stored:
        integers = quantized.integers if negated is None else negated.integers
        name = input_name(quantized.node, 0, "weight")
        constants[0] = DerivedConstant(name, quantized.shape, quantized.kind, integers)
    if negated is not None and negated.zero_point is not None:
        zero_point = negated.zero_point
    if zero_point.any() or quantized.has_zero_point:
        constants[2] = _constant(quantized, 2, "zero_point", scale.shape, quantized.kind, zero_point)
    axis = {} if scale.axis is None else {"axis": ir.AttrInt64("axis", scale.axis)}
    return Rewrite(quantized.node, constants, copied=axis)


def _constant(
    quantized: Quantized, index: int, role: str, shape: tuple[int, ...], dtype: ir.DataType, array: Array
) -> DerivedConstant:
    """Return an array as the constant of a given shape, to which it broadcasts."""
    spread = np.broadcast_to(array if array.size > 1 else array.reshape(()), shape)
    return DerivedConstant(input_name(quantized.node, index, role), shape, dtype, lambda: spread)


def _gain_of_scale(quantized: Quantized, factor: Array, output_axis: int | None) -> _Scale | str:
    """Return the factor as gains of the scales, or why there is no scale for each of them."""
    shape = quantized.scale_shape
    varying = [axis for axis, size in enumerate(factor.shape) if size != 1]
    if quantized.has_vector and output_axis not in (None, quantized.axis):
        return "its scales are not those of its outputs, which kernels of integers take them for"
    if not varying:
        return _Scale(factor.reshape(()), shape)
    if len(varying) > 1:
        return "the gain varies along two of its axes, which no scale does"
    if quantized.block_size:
        if varying[0] == quantized.axis:
            return "the gain varies within the blocks that have one scale"
        return _Scale(factor, shape)
    if quantized.has_vector:
        if varying[0] != quantized.axis:
            return "the gain varies along another axis of it than its scales"
        return _Scale(factor.reshape(-1), shape)
    if output_axis not in (None, varying[0]):
        return "the gain varies between its inputs, while kernels of integers take scales for those of its outputs"
    if opset_of(quantized.node) < _FIRST_OPSET_WITH_AXIS:
        return f"until opset {_FIRST_OPSET_WITH_AXIS - 1} it has one scale, while the gain varies"
    return _Scale(factor.reshape(-1), (factor.size,), varying[0])


@dataclass(frozen=True, eq=False)
class _Negated:
    """Integers whose distance from the zero point has the other sign; `zero_point` is None where it stays."""

    integers: Callable[[], Array]
    zero_point: Array | None = None


def _negated(quantized: Quantized, negative: Tensor, negative_scale: Tensor) -> _Negated | str:
    """Negate a weight where a gain is negative, or say why its integers do not allow it.

    Args:
        quantized: the integers and the zero point.
        negative: which of the weight's elements, broadcasting against it.
        negative_scale: which of the scales, broadcasting against them.
    """
    if quantized.kind not in RANGES:
        return f"a gain is negative, for which there is no form with the type {quantized.kind.name.lower()}"
    low, high = RANGES[quantized.kind]
    read, zeros = quantized.integers, quantized.spread(quantized.zero_point())
    mirrored = np.where(negative, 2 * zeros - read(), zeros)
    fits = bool(np.all((mirrored >= low) & (mirrored <= high)))
    if low < 0 and np.any(negative & (zeros != 0)):
        return "a gain is negative, and the zero point of its signed integers is not zero"
    if low < 0 and not fits:
        return f"a gain is negative, and its integers hold {low}, which the type cannot negate"
    if fits:
        return _Negated(lambda: np.where(negative, 2 * zeros - read(), read()))
    old = quantized.zero_point()
    old = old.reshape(()) if old.size == 1 else old
    return _Negated(lambda: np.where(negative, high - read(), read()), np.where(negative_scale, high - old, old))
