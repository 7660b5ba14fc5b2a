"""Inference of shapes: by onnx, and by what the constants that a node reads say of its other inputs and outputs."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
import onnx_ir as ir

from normfold.export.graph.nodes import all_nodes
from normfold.export.graph.operand_shapes import infer_from_operands
from normfold.export.graph.shapes import sizes_of
from normfold.export.onnx_io.stated_outputs import forget_stated_sizes
from normfold.export.onnx_io.strip_weights import without_weights


def infer_shapes(model: ir.Model, afresh: bool = False) -> bool:
    """Infer shapes, with data propagated, so that computed targets of Reshape count too.

    onnx's inference comes first; what its nodes' other inputs say of a value (a Conv's weight has the rank of its
    input) is added, and both begin again until nothing is found.

    Args:
        model: gets types and shapes, in place.
        afresh: what the file says of values in between counts for nothing where it may be of other inputs: files are
            made dynamic by changing their inputs alone. Sizes of outputs are found again too; where they are not, those
            of the file are written, see `onnx_io.stated_outputs`.

    Returns:
        Whether more is known than before.
    """
    values = _computed(model)
    before = sum(map(_known, values))
    shapes = [value.shape for value in model.graph.inputs if value.shape is not None]
    if afresh and any(shape.is_dynamic() for shape in shapes):
        _infer_all_again(model, rows_alone=all(isinstance(size, int) for shape in shapes for size in [*shape][1:]))
    else:
        _infer_by_onnx(model, afresh)
        _infer_further(model)
    return sum(map(_known, values)) > before


def _infer_all_again(model: ir.Model, rows_alone: bool) -> None:
    """Infer shapes from those of the inputs, in place.

    Args:
        model: gets types and shapes.
        rows_alone: the first axes of the inputs alone are free: of values whose shapes are not found, the sizes that
            the file states hold still, but for the number of rows. That may be 1, as may be others.
    """
    values = _computed(model)
    forget_stated_sizes(model)
    stated = {value: sizes for value in values if (sizes := sizes_of(value)) is not None}
    for value in stated.keys() - set(model.graph.outputs):
        value.shape = None
    _infer_by_onnx(model, afresh=True)
    _infer_further(model)
    lost = [value for value in stated if value.shape is None and stated[value]] if rows_alone else []
    for value in lost:
        value.shape = ir.Shape([None, *(None if size == 1 else size for size in stated[value][1:])])
    if lost:
        _infer_by_onnx(model, afresh=False)
        _infer_further(model)


def infer_input_shapes(model: ir.Model) -> None:
    """Infer the sizes of a model's inputs too, in place: a Conv's weight has the number of its input's channels."""
    infer_shapes(model)
    while infer_from_operands(model.graph, inputs_too=True):
        _infer_by_onnx(model, afresh=False)


def learn_shapes(model: ir.Model, inferred: onnx.ModelProto) -> bool:
    """Take over what onnx's inference found, and infer what follows from it, until nothing is found.

    Args:
        model: gets types and shapes, in place.
        inferred: the same model as a message.

    Returns:
        Whether more is known than before.
    """
    values = _computed(model)
    before = sum(map(_known, values))
    _learn(model, inferred)
    _infer_further(model)
    return sum(map(_known, values)) > before


def _computed(model: ir.Model) -> list[ir.Value]:
    return [value for node in all_nodes(model.graph) for value in node.outputs]


def _infer_further(model: ir.Model) -> None:
    while infer_from_operands(model.graph):
        _infer_by_onnx(model, afresh=False)


def _infer_by_onnx(model: ir.Model, afresh: bool) -> None:
    proto = without_weights(model)
    if afresh:
        for _, written in _with_bodies(model.graph, proto.graph):
            del written.value_info[:]
    try:
        inferred = onnx.shape_inference.infer_shapes(proto, data_prop=True)
    except onnx.shape_inference.InferenceError:
        return  # what is not known is kept, with that reason
    _learn(model, inferred)


def _with_bodies(graph: ir.Graph, written: onnx.GraphProto) -> Iterator[tuple[ir.Graph, onnx.GraphProto]]:
    """Yield a graph and the bodies of control flow inside it, each with its message."""
    yield graph, written
    for node, message in zip(graph, written.node, strict=True):
        for attribute in message.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _with_bodies(node.attributes[attribute.name].as_graph(), attribute.g)


def _learn(model: ir.Model, inferred: onnx.ModelProto) -> None:
    for graph, written in _with_bodies(model.graph, inferred.graph):
        _learn_in_graph(graph, written)


def _learn_in_graph(graph: ir.Graph, written: onnx.GraphProto) -> None:
    """Give the values that a graph's nodes make the types and shapes in its message."""
    found = {info.name: info.type.tensor_type for info in (*written.value_info, *written.output)}
    for value in (value for node in graph for value in node.outputs):
        kind = found.get(value.name or "")
        if kind is None or not kind.elem_type:
            continue
        if value.type is None:
            value.type = ir.TensorType(ir.DataType(kind.elem_type))
        if not kind.HasField("shape"):
            continue
        sizes = [size.dim_value if size.HasField("dim_value") else size.dim_param or None for size in kind.shape.dim]
        old = sizes_of(value)
        if old is not None and len(old) == len(sizes):
            first, second = (old, sizes) if value.is_graph_output() else (sizes, old)  # an output keeps its names
            sizes = [_better(*pair) for pair in zip(first, second, strict=True)]
        if old != tuple(sizes):
            value.shape = ir.Shape(sizes)


def _better(one: int | str | None, other: int | str | None) -> int | str | None:
    """Return a number if one of two sizes is, else the first name."""
    return next((size for size in (one, other) if isinstance(size, int)), one if one is not None else other)


def _known(value: ir.Value) -> int:
    """Return how much is known of a value's shape: its rank, and the names and numbers of its sizes."""
    sizes = sizes_of(value)
    return 0 if sizes is None else 1 + sum(2 if isinstance(size, int) else size is not None for size in sizes)
