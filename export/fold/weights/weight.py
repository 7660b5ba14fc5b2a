"""The constant factor of a layer: an initializer, or what a DequantizeLinear makes of one; and how it takes a gain."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_ir as ir

from normfold.export.arrays import Array
from normfold.export.fold.edits import Rewrite, input_name
from normfold.export.fold.reason_codes import ReasonCode
from normfold.export.fold.rejection import Rejection
from normfold.export.fold.weights.quantized import read_quantized
from normfold.export.fold.weights.rescale import rescale
from normfold.export.graph.constants import (
    FLOATS,
    DerivedConstant,
    constant_tensor,
    float64_reader_of,
    is_constant,
    not_constant_because,
)
from normfold.export.graph.nodes import node_label, sole_reader


@dataclass(frozen=True, eq=False)
class ScaledWeight:
    """How a weight takes a gain: constants of the layer itself, and rewrites of the nodes that make its weight."""

    constants: Mapping[int, DerivedConstant]
    sources: Sequence[Rewrite] = ()


@dataclass(frozen=True, eq=False)
class Weight:
    """Input number `index` of a layer, read in float64 when asked.

    `source` holds the nodes that make it, the DequantizeLinear first, then each Transpose; it is empty for an
    initializer. `output_axis` is the axis of the layer's outputs, None where the layer has no kernel of integers.
    """

    node: ir.Node
    index: int
    shape: tuple[int, ...]
    dtype: ir.DataType
    read: Callable[[], Array]
    source: Sequence[ir.Node] = field(default=())
    output_axis: int | None = None

    def scaled(self, factor: Array) -> ScaledWeight | Rejection:
        """Return the weight times a factor that broadcasts against it, or why it cannot take that."""
        if not self.source:
            name = input_name(self.node, self.index, "weight")
            return ScaledWeight(
                {self.index: DerivedConstant(name, self.shape, self.dtype, lambda: self.read() * factor)}
            )
        for node in self.source:
            if sole_reader(node.outputs[0]) is None:
                because = (
                    f"its weight is made by {node.op_type} {node_label(node)!r}, whose output is read elsewhere too"
                )
                return Rejection(ReasonCode.OTHER_READERS, self.node, because)
        output_axis = self.output_axis
        for transpose in reversed(self.source[1:]):
            order = _order(transpose, factor.ndim)
            factor = factor.transpose(np.argsort(order))
            output_axis = None if output_axis is None else order[output_axis]
        quantized = read_quantized(self.source[0])
        assert quantized is not None  # `_read_dequantized` read it
        rewrite = rescale(quantized, factor, output_axis)
        if isinstance(rewrite, str):
            return Rejection(ReasonCode.QUANTIZED_WEIGHT, self.node, f"its weight is quantised, and {rewrite}")
        return ScaledWeight({}, (rewrite, *(Rewrite(node, {}) for node in self.source[1:])))


def read_weight(node: ir.Node, index: int, role: str = "weight", output_axis: int | None = None) -> Weight | Rejection:
    """Read a weight or bias, or say why it cannot be replaced."""
    value = node.inputs[index]
    tensor = constant_tensor(value)
    if tensor is not None and (dtype := tensor.dtype) in FLOATS:
        return Weight(node, index, tuple(tensor.shape.numpy()), dtype, float64_reader_of(tensor))
    weight = _read_dequantized(node, index)
    if weight is None:
        return Rejection(ReasonCode.WEIGHTS_NOT_CONSTANT, node, f"its {role} {not_constant_because(value)}")
    return replace(weight, output_axis=output_axis)


def is_weight(node: ir.Node, index: int) -> bool:
    """Return whether an input of a node is a weight: a constant, or made of constants by a DequantizeLinear."""
    return is_constant(node.inputs[index]) or _read_dequantized(node, index) is not None


def _read_dequantized(node: ir.Node, index: int) -> Weight | None:
    """Read a weight that is a DequantizeLinear's, with any number of Transpose between; None if it is none."""
    value = node.inputs[index]
    transposes: list[ir.Node] = []
    while (maker := value.producer() if value is not None else None) is not None and maker.op_type == "Transpose":
        transposes.insert(0, maker)
        value = maker.inputs[0]
    if maker is None or maker.op_type != "DequantizeLinear" or maker.domain != "" or maker.graph is not node.graph:
        return None
    quantized = read_quantized(maker)
    if quantized is None:
        return None
    orders = [_order(transpose, len(quantized.shape)) for transpose in transposes]
    shape = quantized.shape
    for order in orders:
        shape = tuple(shape[axis] for axis in order)

    def read() -> Array:
        weight = quantized.weight()
        for order in orders:
            weight = weight.transpose(order)
        return weight

    dtype = maker.outputs[0].dtype or quantized.scale_dtype
    return Weight(node, index, shape, dtype, read, (maker, *transposes))


def _order(transpose: ir.Node, rank: int) -> Sequence[int]:
    return transpose.attributes.get_ints("perm") or range(rank)[::-1]
