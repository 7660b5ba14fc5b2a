"""Nodes that stay in float32 whatever their inputs are, and why."""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

from normfold.export.graph.constants import constant_tensor
from normfold.export.graph.nodes import opset_of
from normfold.export.quantize.float16.schema import float16_slots, is_float32, schema_of, states_dtype

LAYERS = frozenset(
    {
        *("Conv", "ConvTranspose", "DeformConv", "Gemm", "MatMul", "Einsum", "Attention"),
        *("LSTM", "GRU", "RNN"),
    }
)
"""Operators that take most of a network's time: float16 is for them."""

_INNER_SUMS = frozenset(
    {
        *("ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "LpNormalization", "LpPool", "GlobalLpPool", "LRN"),
        *("MeanVarianceNormalization", "SoftmaxCrossEntropyLoss", "NegativeLogLikelihoodLoss"),
    }
)
"""Operators whose sums of squares, powers or exponentials are not their result, so no look at the result finds them."""

_WIDE_INTEGERS = frozenset(
    {
        *(ir.DataType.INT16, ir.DataType.INT32, ir.DataType.INT64),
        *(ir.DataType.UINT16, ir.DataType.UINT32, ir.DataType.UINT64),
    }
)

_TINY_OPERANDS = frozenset({"Add", "Sub", "Mul", "Div", "Max", "Clip"})
"""Elementwise operators in which a scalar stands that keeps a divisor from zero, or scales."""

_ROUNDS_TO_ZERO = 2.0**-25
"""Half of the smallest float16."""


def static_reason(node: ir.Node, from_integers: set[ir.Value]) -> str | None:
    """Return why a node stays in float32; None if it need not.

    Args:
        node: of the graph itself, with a float32 input or output.
        from_integers: values that are computed from integers alone.
    """
    schema = schema_of(node)
    if schema is None:
        return f"onnx has no schema of {node.domain or 'ai.onnx'}:{node.op_type}"
    if any(
        attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for attribute in node.attributes.values()
    ):
        return "it has a body, which stays in float32 as a whole"
    for value in (*node.inputs, *node.outputs):
        if value is not None and value.name and not isinstance(value.type, ir.TensorType):
            return f"the value {value.name!r} is not known to be a tensor"
    if states_dtype(schema):
        return "an attribute states the dtype of its output"
    if not float16_slots(node, schema):
        return f"its schema in opset {opset_of(node)} takes no float16"
    if node.op_type in _INNER_SUMS:
        return "its inner sums may exceed 65504 where its result does not"
    if node.op_type == "BitCast":
        return "it takes the bits of its input for another dtype's"
    if node.op_type.startswith("Scatter") and node.attributes.get_string("reduction", "none") != "none":
        return "ONNX Runtime runs its reduction on the CPU in float32 alone"
    if node.op_type == "CumSum":
        return "it adds the rounding errors of float16 up along an axis"
    if node.op_type == "BatchNormalization" and len(node.outputs) > 1:
        return "it is in training mode, and updates its statistics"
    gives_float32 = any(is_float32(value) for value in node.outputs)
    if any(value in from_integers for value in (node.outputs if gives_float32 else node.inputs)):
        return "it is computed from integers, which float16 holds exactly up to 2048 alone"
    return None


def values_from_integers(nodes: Iterable[ir.Node]) -> set[ir.Value]:
    """Return the float32 values that are computed from sizes, indices and other integers of 16 bits or more, and
    constants, before a layer reads them.
    """
    found: set[ir.Value] = set()
    for node in nodes:
        outputs = [value for value in node.outputs if is_float32(value)]
        if not outputs or (node.op_type in LAYERS and not _is_outer_product(node)):
            continue
        floats = [value for value in node.inputs if is_float32(value)]
        if node.op_type == "Cast":
            source = node.inputs[0]
            is_wide = source is not None and source.dtype in _WIDE_INTEGERS
            found |= set(outputs) if is_wide or source in found else set()
        elif any(value in found for value in floats) and all(
            value in found or constant_tensor(value) is not None for value in floats
        ):
            found |= set(outputs)
    return found


def tiny_operand(node: ir.Node) -> ir.Value | None:
    """Return the scalar constant among a node's operands that float16 rounds to zero, such as an epsilon of 1e-12."""
    if node.op_type not in _TINY_OPERANDS:
        return None
    for value in node.inputs:
        tensor = constant_tensor(value) if is_float32(value) else None
        number = float(tensor.numpy().reshape(())) if tensor is not None and tensor.size == 1 else 0.0
        if 0 < abs(number) <= _ROUNDS_TO_ZERO:
            return value
    return None


def _is_outer_product(node: ir.Node) -> bool:
    """Return whether a MatMul multiplies each number by each other, as of positions and frequencies, and adds none."""
    if node.op_type != "MatMul":
        return False
    first, second = (constant_tensor(value) for value in node.inputs)
    return (first is not None and first.shape.numpy()[-1:] == (1,)) or (
        second is not None and second.shape.numpy()[-2:-1] == (1,)
    )
