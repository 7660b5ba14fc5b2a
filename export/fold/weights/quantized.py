"""The constants of a DequantizeLinear: integers, scale and zero point, for a whole weight, a channel or a block.

    weight = (integers - zero point) * scale        ONNX DequantizeLinear, opset 10 to 25

Scale and zero point are scalars, vectors along the attribute `axis` (from opset 13 on), or as large as the weight is in
blocks of `block_size` along that axis (from opset 21 on).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from normfold.export.arrays import Array
from normfold.export.graph.constants import FLOATS, constant_dtype, constant_shape, constant_tensor, float64_reader

RANGES = {
    ir.DataType.INT4: (-8, 7),
    ir.DataType.UINT4: (0, 15),
    ir.DataType.INT8: (-128, 127),
    ir.DataType.UINT8: (0, 255),
    ir.DataType.INT16: (-(2**15), 2**15 - 1),
    ir.DataType.UINT16: (0, 2**16 - 1),
}
"""The smallest and the largest number of each integer type that is a weight."""


@dataclass(frozen=True, eq=False)
class Quantized:
    """What a DequantizeLinear reads: `integers` and `zero_point` as float64, which holds them exactly.

    `is_stored` says that the integers are an initializer, and not what a QuantizeLinear makes of one.
    """

    node: ir.Node
    shape: tuple[int, ...]
    kind: ir.DataType
    integers: Callable[[], Array]
    is_stored: bool
    scale: Callable[[], Array]
    scale_shape: tuple[int, ...]
    scale_dtype: ir.DataType
    zero_point: Callable[[], Array]
    has_zero_point: bool

    @property
    def axis(self) -> int:
        """The axis of a scale that is a vector, or of the blocks."""
        return self.node.attributes.get_int("axis", 1) % max(len(self.shape), 1)

    @property
    def block_size(self) -> int:
        """Size of a block along the axis; 0 where there are no blocks."""
        return self.node.attributes.get_int("block_size", 0)

    @property
    def is_uniform(self) -> bool:
        """Whether there is one scale for the whole weight."""
        return int(np.prod(self.scale_shape)) == 1 and not self.block_size

    @property
    def has_vector(self) -> bool:
        """Whether there is a scale for each channel along the axis."""
        return not self.is_uniform and not self.block_size

    def spread(self, array: Array) -> Array:
        """Return a scale or zero point as an array that broadcasts against the weight."""
        if array.size == 1:
            return array.reshape([1] * len(self.shape))
        if self.block_size:
            repeated: Array = np.repeat(array, self.block_size, self.axis)
            return np.take(repeated, range(self.shape[self.axis]), self.axis)
        return array.reshape([-1 if axis == self.axis else 1 for axis in range(len(self.shape))])

    def weight(self) -> Array:
        """Return the weight in float64."""
        return (self.integers() - self.spread(self.zero_point())) * self.spread(self.scale())


def read_quantized(node: ir.Node) -> Quantized | None:
    """Read the constants of a DequantizeLinear; None if one is not constant, or is what only a runtime can say."""
    inputs = [*node.inputs, None][:3]
    source, scale, zero_point = inputs
    if not _is_float(scale) or (zero_point is not None and constant_tensor(zero_point) is None):
        return None
    stored = constant_tensor(source)
    if stored is not None:
        shape, kind, integers = constant_shape(source), stored.dtype, float64_reader(source)
    elif (computed := _quantize(source)) is not None:
        shape, kind, integers = computed
    else:
        return None
    return Quantized(
        node,
        shape,
        kind,
        integers,
        stored is not None,
        float64_reader(scale),
        constant_shape(scale),
        constant_dtype(scale),
        (lambda: np.zeros(())) if zero_point is None else float64_reader(zero_point),
        zero_point is not None,
    )


def _is_float(value: ir.Value | None) -> bool:
    tensor = constant_tensor(value)
    return tensor is not None and tensor.dtype in FLOATS


def _quantize(value: ir.Value | None) -> tuple[tuple[int, ...], ir.DataType, Callable[[], Array]] | None:
    """Return shape, type and integers of a QuantizeLinear of a float32 constant, as training with quantisation writes.

    integers = saturate(round(weight / scale) + zero point), halves rounded to even, the division in float32
    """
    node = value.producer() if value is not None else None
    if node is None or node.op_type != "QuantizeLinear" or node.domain != "" or len(node.inputs) < 3:
        return None
    tensors = [constant_tensor(one) for one in node.inputs[:3]]
    weight, scale, zero_point = tensors
    if weight is None or scale is None or zero_point is None or "block_size" in node.attributes:
        return None
    if {weight.dtype, scale.dtype} != {ir.DataType.FLOAT} or zero_point.dtype not in RANGES:
        return None
    read = [float64_reader(one) for one in node.inputs[:3]]
    shape, limits = constant_shape(node.inputs[0]), RANGES[zero_point.dtype]
    axis = node.attributes.get_int("axis", 1) % max(len(shape), 1)

    def integers() -> Array:
        numbers, steps, zeros = (one() for one in read)
        steps, zeros = (
            one.reshape(() if one.size == 1 else [-1 if place == axis else 1 for place in range(len(shape))])
            for one in (steps, zeros)
        )
        quotients = numbers.astype(np.float32) / steps.astype(np.float32)
        saturated: Array = np.clip(np.rint(quotients).astype(np.float64) + zeros, *limits)
        return saturated

    return shape, zero_point.dtype, integers
