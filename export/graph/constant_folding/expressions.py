"""Constant expressions, replaced by initializers: weight norm, standardised weights, the arithmetic of shapes.

A large float weight is not computed here: it becomes a derived constant, whose function runs the expression again when
the file is written, as for every weight that a fold makes. A file grows by no more than 1 MiB for each value that is
replaced (16 for the weight of a layer that a ConstantOfShape generates): an expression whose result takes more bytes,
and more than the constants that nothing else reads, stays as it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx
import onnx_ir as ir

from normfold.export.arrays import Array
from normfold.export.graph.constant_folding.evaluate import Content, EvaluationError, content_of, evaluate
from normfold.export.graph.constants import DerivedConstant, constant_tensor, derived_tensor, replace_by_constant
from normfold.export.graph.nodes import all_graphs, is_batchnorm

MAX_SOURCE_BYTES = 256 * 1024**2
"""Bytes of constants that one expression may read: a few times as much is in memory while it is evaluated."""
MAX_ADDED_BYTES = 1024**2
"""Bytes that a result may take where no constants become unnecessary by it."""
MAX_ADDED_WEIGHT_BYTES = 16 * 1024**2
"""The same for a layer's weight that no more than MAX_GENERATOR_BYTES generate; ResNet-50's largest takes 9 MiB."""
MAX_GENERATOR_BYTES = 1_000
"""Bytes of constants, such as the shape and value of a ConstantOfShape."""
MAX_HELD_BYTES = 1024**2
"""Bytes, in float64, of a result that is held in memory until the file is written; larger ones are computed again."""
_MIN_DERIVED_BYTES = 1_000
"""Bytes: smaller results, such as the scales of a Resize, are rounded at once, for shape inference to read them."""

_NOT_COMPUTED = frozenset(
    {
        *("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"),
        *("Dropout", "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"),
    }
)
"""Operators that differ from run to run, or whose nodes say to runtimes that a weight is quantised."""


_LAYERS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
"""Operators whose second input is a weight."""


@dataclass(frozen=True, eq=False)
class _Step:
    """One node of an expression: its operands are results of earlier steps, by number, or constants."""

    node: onnx.NodeProto
    opset: int
    operands: tuple[int | ir.TensorProtocol | None, ...]
    results: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class _Expression:
    """Nodes in the order in which they run, and the number of the result; to evaluate it, the graph is not needed.

    `sources` are the constants that it reads, `freed` those of them that nothing reads once the result is a constant.
    """

    steps: tuple[_Step, ...]
    result: int
    sources: frozenset[ir.Value]
    freed: frozenset[ir.Value]

    def content(self) -> Content:
        """Evaluate it.

        Raises:
            EvaluationError: a node cannot be evaluated.
        """
        last_read = {number: place for place, step in enumerate(self.steps) for number in step.operands}
        known: dict[int, Content] = {}
        for place, step in enumerate(self.steps):
            operands = [
                each if each is None else known[each] if isinstance(each, int) else content_of(each)
                for each in step.operands
            ]
            results = evaluate(step.node, step.opset, operands)
            known.update(zip(step.results, results, strict=True))
            for number in [one for one in known if last_read.get(one, -1) <= place and one != self.result]:
                del known[number]
        return known[self.result]

    def exact(self) -> Array:
        """Evaluate it in float64."""
        return self.content().exact


def compute_constant_expressions(model: ir.Model) -> list[ir.Node]:
    """Replace what nodes compute of constants alone by initializers, in place; a BatchNormalization is such a node too.

    Returns:
        The nodes that are gone.
    """
    gone: list[ir.Node] = []
    opset = model.opset_imports.get("", 0)
    for graph in all_graphs(model.graph):
        gone += _compute(graph, opset)
    return gone


def _compute(graph: ir.Graph, opset: int) -> list[ir.Node]:
    nodes = _constant_nodes(graph)
    unread = {node for node in nodes if not any(value.uses() for value in node.outputs)}
    gone = []
    for node in reversed(list(nodes)):  # readers first: of a chain, only the last value becomes an initializer
        if node in unread or any(value.is_graph_output() for value in node.outputs):
            continue
        needed = [value for value in node.outputs if value.uses()]
        tensors = _evaluate(needed, nodes, opset)
        if tensors is None:
            continue
        for value, tensor in zip(needed, tensors, strict=True):
            replace_by_constant(graph, value, tensor)
        read = [value for value in node.inputs if value is not None]
        graph.remove(node, safe=True)
        _remove_unread(read)
        gone.append(node)
    return gone


def _constant_nodes(graph: ir.Graph) -> dict[ir.Node, int]:
    """Return the nodes whose inputs are constants or outputs of such nodes, with their places in the graph."""
    found: dict[ir.Node, int] = {}
    for place, node in enumerate(graph):
        if _is_computable(node) and all(
            value is None or value.producer() in found or constant_tensor(value) is not None for value in node.inputs
        ):
            found[node] = place
    return found


def _is_computable(node: ir.Node) -> bool:
    if node.domain != "" or node.op_type in _NOT_COMPUTED or node.op_type == "Constant":
        return False
    if any(attribute.is_ref() or attribute.type in _GRAPHS for attribute in node.attributes.values()):
        return False
    if is_batchnorm(node):
        further = any(value.uses() or value.is_graph_output() for value in node.outputs[1:])
        return not further and bool(node.attributes.get_int("spatial", 1))
    return True


_GRAPHS = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)


def _evaluate(values: Iterable[ir.Value], nodes: Mapping[ir.Node, int], opset: int) -> list[ir.TensorProtocol] | None:
    """Return the tensors of outputs of one node; None if one cannot be evaluated or is too large."""
    tensors = []
    for value in values:
        expression = _expression(value, nodes, opset)
        is_generated = _is_weight(value) and _bytes_of(expression.sources) <= MAX_GENERATOR_BYTES
        allowed = max(MAX_ADDED_WEIGHT_BYTES if is_generated else MAX_ADDED_BYTES, _bytes_of(expression.freed))
        if _bytes_of(expression.sources) > MAX_SOURCE_BYTES or _stated_bytes(value) > allowed:
            return None
        try:
            tensor = _tensor(value, expression)
        except EvaluationError:
            return None
        if tensor.nbytes > allowed:
            return None
        tensors.append(tensor)
    return tensors


def _is_weight(value: ir.Value) -> bool:
    return any(use.node.op_type in _LAYERS and use.idx == 1 for use in value.uses())


def _expression(value: ir.Value, nodes: Mapping[ir.Node, int], opset: int) -> _Expression:
    waiting, found = [value.producer()], set[ir.Node]()
    while waiting:
        node = waiting.pop()
        if node is None or node in found or node not in nodes:
            continue
        found.add(node)
        waiting += [each.producer() for each in node.inputs if each is not None]
    numbers: dict[ir.Value, int] = {}
    steps, sources = [], set[ir.Value]()
    ordered = sorted(found, key=nodes.__getitem__)
    for node in ordered:
        operands = [
            None if each is None else numbers[each] if each in numbers else constant_tensor(each)
            for each in node.inputs
        ]
        sources |= {each for each in node.inputs if each is not None and each not in numbers}
        named = node.outputs[:1] if is_batchnorm(node) else [each for each in node.outputs if each.name]
        results = tuple(range(len(numbers), len(numbers) + len(named)))
        numbers.update(zip(named, results, strict=True))
        steps.append(_Step(ir.to_proto(node), opset, tuple(operands), results))
    return _Expression(tuple(steps), numbers[value], frozenset(sources), frozenset(_freed(ordered, sources)))


def _freed(ordered: Sequence[ir.Node], sources: Iterable[ir.Value]) -> list[ir.Value]:
    """Return the constants that are read only by nodes that go when the last one's output is a constant."""
    going = {ordered[-1]}
    for node in reversed(ordered[:-1]):
        if not any(value.is_graph_output() for value in node.outputs) and all(
            use.node in going for value in node.outputs for use in value.uses()
        ):
            going.add(node)
    return [
        source for source in sources if not source.is_graph_output() and all(use.node in going for use in source.uses())
    ]


def _tensor(value: ir.Value, expression: _Expression) -> ir.TensorProtocol:
    content = expression.content()
    name = value.name or ""
    nbytes = math.prod(content.array.shape) * content.dtype.itemsize
    if content.dtype not in (ir.DataType.FLOAT, ir.DataType.DOUBLE) or nbytes <= _MIN_DERIVED_BYTES:
        return ir.Tensor(content.rounded, dtype=content.dtype, name=name)
    held = content.array.nbytes <= MAX_HELD_BYTES
    compute = partial(np.copy, content.exact) if held else expression.exact
    return derived_tensor(DerivedConstant(name, content.array.shape, content.dtype, compute))


def _stated_bytes(value: ir.Value) -> int:
    """Return the bytes of a value as inference found its shape; 0 where that is not known."""
    if value.shape is None or value.dtype is None or not value.shape.is_static():
        return 0
    return int(math.prod(value.shape.numpy()) * value.dtype.itemsize)


def _bytes_of(values: Iterable[ir.Value]) -> int:
    tensors = [constant_tensor(value) for value in values]
    return sum(tensor.nbytes for tensor in tensors if tensor is not None)


def _remove_unread(values: Iterable[ir.Value]) -> None:
    """Remove those initializers that nothing reads any more."""
    for value in dict.fromkeys(values):
        if value.is_initializer() and not (value.uses() or value.is_graph_output() or value.is_graph_input()):
            assert value.graph is not None and value.name is not None  # noqa: PT018 -- an initializer has both
            del value.graph.initializers[value.name]
