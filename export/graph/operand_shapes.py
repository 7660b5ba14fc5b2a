"""What a node's operands say of the shapes around it, forwards and backwards, where onnx's inference stops.

A Conv's weight has the rank of its input and of its output, and the numbers of their channels; a Transpose's perm has
an entry for each axis, the target of a Reshape one for each axis of the result. An activation has the shape of its
input. Each holds of every graph that runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import onnx_ir as ir

from normfold.export.graph.constants import constant_tensor
from normfold.export.graph.nodes import all_nodes, opset_of
from normfold.export.graph.shapes import Sizes, sizes_of

Claim = tuple[ir.Value | None, Sizes | None]
"""A value, and what a node says of its sizes: None where it says nothing of one, or of them all."""


def infer_from_operands(graph: ir.Graph, inputs_too: bool = False) -> bool:
    """Add what the nodes of a graph say of the shapes of values, in place.

    Args:
        graph: with its bodies.
        inputs_too: add it to the inputs of the graph too; they stay as they are otherwise.

    Returns:
        Whether more is known than before.
    """
    learnt = False
    learners = set(graph.inputs) if inputs_too else set[ir.Value]()
    nodes = [
        node
        for node in all_nodes(graph)
        if node.domain == ""
        and node.op_type in _RULES
        and any(_may_learn(value, learners) for value in (*node.inputs, *node.outputs))
    ]
    for order in (nodes, nodes[::-1]):
        for node in order:
            _learn_type(node)
            for value, sizes in _RULES[node.op_type](node):
                learnt |= _learn(value, sizes, learners)
    return learnt


def _may_learn(value: ir.Value | None, inputs: set[ir.Value]) -> bool:
    """Return whether the type of a value is not known, or a size of a node's output or of one of these inputs."""
    if value is None:
        return False
    may_change = value.producer() is not None or value in inputs
    return value.type is None or (may_change and (value.shape is None or value.shape.is_dynamic()))


def _learn(value: ir.Value | None, sizes: Sizes | None, inputs: set[ir.Value]) -> bool:
    """Add sizes to what is known of a node's output or of one of these inputs; return whether any is new."""
    if value is None or sizes is None or (value.producer() is None and value not in inputs):
        return False
    old = sizes_of(value)
    if old is None:
        value.shape = ir.Shape(sizes)
        return True
    if len(old) != len(sizes):
        return False
    new = [
        size if isinstance(size, int) and not isinstance(known, int) else known
        for known, size in zip(old, sizes, strict=True)
    ]
    if tuple(new) == old:
        return False
    value.shape = ir.Shape(new)
    return True


def _learn_type(node: ir.Node) -> None:
    """Give one type to the first input, the first output and the weight of a node, where one of them lacks it."""
    if node.op_type in _OF_TWO_TYPES:
        return
    weights = node.inputs[1:2] if node.op_type in _WITH_WEIGHT else ()
    values = [value for value in (node.inputs[0], node.outputs[0], *weights) if value is not None]
    known = [value.type for value in values if value.type is not None]
    for value in values:
        if value.type is None and known:
            value.type = known[0]


_OF_TWO_TYPES = frozenset({"Cast", "QuantizeLinear", "DequantizeLinear"})
_WITH_WEIGHT = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


def _shape_of_constant(value: ir.Value | None) -> tuple[int, ...] | None:
    tensor = constant_tensor(value)
    return None if tensor is None else tuple(tensor.shape.numpy())


def _numbers(value: ir.Value | None) -> list[int] | None:
    """Return a constant vector of integers."""
    tensor = constant_tensor(value)
    return None if tensor is None or tensor.size > 64 else [int(one) for one in np.ravel(tensor.numpy())]


def _length(value: ir.Value | None) -> int | None:
    """Return the length of a vector, which may be computed."""
    sizes = _shape_of_constant(value) or sizes_of(value)
    return sizes[0] if sizes is not None and len(sizes) == 1 and isinstance(sizes[0], int) else None


def _input(node: ir.Node, index: int) -> ir.Value | None:
    return node.inputs[index] if index < len(node.inputs) else None


def _of_rank(values: Sequence[ir.Value | None], rank: int | None) -> Iterator[Claim]:
    for value in values:
        yield value, None if rank is None else (None,) * rank


def _conv(node: ir.Node) -> Iterator[Claim]:
    shape = _shape_of_constant(_input(node, 1))
    if shape is None or len(shape) < 3:
        return
    group, spatial = node.attributes.get_int("group", 1), (None,) * (len(shape) - 2)
    outputs, inputs = (shape[0], shape[1] * group) if node.op_type == "Conv" else (shape[1] * group, shape[0])
    yield node.inputs[0], (None, inputs, *spatial)
    yield node.outputs[0], (None, outputs, *spatial)


def _same(node: ir.Node) -> Iterator[Claim]:
    """One shape for the first input and the first output."""
    yield node.outputs[0], sizes_of(node.inputs[0])
    yield node.inputs[0], sizes_of(node.outputs[0])


def _batchnorm(node: ir.Node) -> Iterator[Claim]:
    yield from _same(node)
    scale, sizes = _shape_of_constant(_input(node, 1)), sizes_of(node.inputs[0])
    if scale is not None and len(scale) == 1 and sizes is not None and len(sizes) > 1:
        yield node.inputs[0], (None, scale[0], *(None,) * (len(sizes) - 2))
    yield from _same(node)


def _pool(node: ir.Node) -> Iterator[Claim]:
    kernel = node.attributes.get_ints("kernel_shape", ())
    values = (node.inputs[0], node.outputs[0])
    if kernel:
        yield from _of_rank(values, len(kernel) + 2)
    for value, other in (values, values[::-1]):
        sizes = sizes_of(other)
        if sizes is not None and len(sizes) > 2:
            yield value, (*sizes[:2], *(None,) * (len(sizes) - 2))


def _transpose(node: ir.Node) -> Iterator[Claim]:
    source, result = sizes_of(node.inputs[0]), sizes_of(node.outputs[0])
    known = source or result
    perm = list(node.attributes.get_ints("perm", ())) or (None if known is None else list(range(len(known)))[::-1])
    if perm is None:
        return
    yield from _of_rank((node.inputs[0], node.outputs[0]), len(perm))
    if source is not None and len(source) == len(perm):
        yield node.outputs[0], tuple(source[axis] for axis in perm)
    if result is not None and len(result) == len(perm):
        yield node.inputs[0], tuple(result[perm.index(axis)] for axis in range(len(perm)))


def _reshape(node: ir.Node) -> Iterator[Claim]:
    yield from _of_rank(node.outputs, _length(_input(node, 1)))


def _flatten(node: ir.Node) -> Iterator[Claim]:
    yield from _of_rank(node.outputs, 2)


def _gemm(node: ir.Node) -> Iterator[Claim]:
    weight = _shape_of_constant(_input(node, 1))
    if weight is None or len(weight) != 2:
        yield from _of_rank((node.inputs[0], node.outputs[0]), 2)
        return
    inputs, outputs = weight[::-1] if node.attributes.get_int("transB", 0) else weight
    yield node.inputs[0], (inputs, None) if node.attributes.get_int("transA", 0) else (None, inputs)
    yield node.outputs[0], (None, outputs)


def _matmul(node: ir.Node) -> Iterator[Claim]:
    """A constant matrix on the right changes the last axis alone."""
    weight = _shape_of_constant(_input(node, 1))
    if weight is None or len(weight) != 2:
        return
    for value, other, size in (
        (node.outputs[0], node.inputs[0], weight[1]),
        (node.inputs[0], node.outputs[0], weight[0]),
    ):
        sizes = sizes_of(other)
        if sizes:
            yield value, (*sizes[:-1], size)


def _pad(node: ir.Node) -> Iterator[Claim]:
    if _input(node, 3) is None:
        pads = node.attributes.get_ints("pads", None)
        length = _length(_input(node, 1)) if pads is None else len(pads)
        yield from _of_rank((node.inputs[0], node.outputs[0]), None if length is None else length // 2)


def _resize(node: ir.Node) -> Iterator[Claim]:
    values = (node.inputs[0], node.outputs[0])
    if node.attributes.get_ints("axes", None) is None:
        places = (1,) if opset_of(node) < 11 else (2, 3)
        lengths = [length for place in places if (length := _length(_input(node, place)))]
        yield from _of_rank(values, lengths[0] if lengths else None)
    yield from _rank_from_each_other(values)


def _one_rank(node: ir.Node) -> Iterator[Claim]:
    """One rank for the first input and every output; for a reduction, where it keeps its axes."""
    if node.op_type.startswith("Reduce") and not node.attributes.get_int("keepdims", 1):
        return
    yield from _rank_from_each_other((node.inputs[0], *node.outputs))


def _concat(node: ir.Node) -> Iterator[Claim]:
    yield from _rank_from_each_other((*node.inputs, *node.outputs))


def _rank_from_each_other(values: Sequence[ir.Value | None]) -> Iterator[Claim]:
    ranks = [len(sizes) for value in values if (sizes := sizes_of(value)) is not None]
    yield from _of_rank(values, ranks[0] if ranks else None)


def _four_axes(node: ir.Node) -> Iterator[Claim]:
    yield from _of_rank((node.inputs[0], node.outputs[0]), 4)


def _scalar_operand(node: ir.Node) -> Iterator[Claim]:
    """Arithmetic with a constant of rank 0 has the shape of its other operand."""
    for index, other in ((0, 1), (1, 0)):
        if _shape_of_constant(_input(node, index)) == ():
            yield node.outputs[0], sizes_of(_input(node, other))
            yield _input(node, other), sizes_of(node.outputs[0])


_SAME = (
    *("Abs", "Cast", "Ceil", "Celu", "Clip", "Dropout", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid"),
    *("HardSwish", "Hardmax", "Identity", "InstanceNormalization", "GroupNormalization", "LayerNormalization"),
    *("LRN", "LeakyRelu", "Log", "LogSoftmax", "LpNormalization", "Mish", "Neg", "PRelu", "Reciprocal", "Relu"),
    *("Round", "Selu", "Sigmoid", "Sign", "Softmax", "Softplus", "Softsign", "Sqrt", "Swish", "Tanh"),
    *("ThresholdedRelu", "QuantizeLinear", "DequantizeLinear", "MeanVarianceNormalization", "Not"),
)
_RULES: dict[str, Callable[[ir.Node], Iterator[Claim]]] = {
    **dict.fromkeys(_SAME, _same),
    **dict.fromkeys(("Conv", "ConvTranspose"), _conv),
    **dict.fromkeys(("MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"), _pool),
    **dict.fromkeys(("Resize", "Upsample"), _resize),
    **dict.fromkeys(("Slice", "Split", "CumSum", "Trilu", "ReverseSequence", "Tile"), _one_rank),
    **dict.fromkeys(("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2", "ReduceSumSquare"), _one_rank),
    **dict.fromkeys(("Add", "Sub", "Mul", "Div", "Pow"), _scalar_operand),
    **dict.fromkeys(("DepthToSpace", "SpaceToDepth"), _four_axes),
    "BatchNormalization": _batchnorm,
    "Transpose": _transpose,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Pad": _pad,
    "Concat": _concat,
}
"""The claims of each operator, by its name in the standard domain."""
