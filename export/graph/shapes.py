"""Shapes of values as inference found them: a size is a number, a name, or None where nothing is known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import onnx
import onnx_ir as ir

from normfold.export.onnx_io.strip_weights import without_weights

Sizes = tuple[int | str | None, ...]


def infer_shapes(model: ir.Model, afresh: bool = False) -> bool:
    """Infer shapes where values lack them, with data propagated, so that computed targets of Reshape count too.

    Args:
        model: gets types and shapes, in place.
        afresh: what the file says of values in between counts for nothing where it may be of other inputs: files are
            made dynamic by changing their inputs alone.

    Returns:
        Whether more is known than before.
    """
    values = [value for node in model.graph.all_nodes() for value in node.outputs]
    if not afresh and all(_is_known(value) for value in values):
        return False
    stated = not afresh or all(isinstance(size, int) for value in model.graph.inputs for size in _free_part(value))
    proto = without_weights(model)
    if afresh:
        for _, written in _with_bodies(model.graph, proto.graph):
            del written.value_info[:]
    try:
        inferred = onnx.shape_inference.infer_shapes(proto, data_prop=True)
    except onnx.shape_inference.InferenceError:
        return False  # what is not known is kept, with that reason
    learnt = False
    for graph, written in _with_bodies(model.graph, inferred.graph):
        learnt |= _learn(graph, written, stated)
    return learnt


def _is_known(value: ir.Value) -> bool:
    """Return whether the sizes of a value are numbers, or names that the file gives."""
    sizes = sizes_of(value)
    return sizes is not None and all(isinstance(size, int) or not _is_generated(size) for size in sizes)


def _is_generated(size: str | None) -> bool:
    """Return whether inference did not find a size: then it makes a name up."""
    return size is None or size.startswith("unk__")


def _with_bodies(graph: ir.Graph, written: onnx.GraphProto) -> Iterator[tuple[ir.Graph, onnx.GraphProto]]:
    """Yield a graph and the bodies inside it, each with its message."""
    yield graph, written
    for node, message in zip(graph, written.node, strict=True):
        for attribute in message.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _with_bodies(node.attributes[attribute.name].as_graph(), attribute.g)


def _learn(graph: ir.Graph, written: onnx.GraphProto, stated: bool) -> bool:
    """Give the values that a graph's nodes make the shapes in its message; return whether more is known than before.

    Unless `stated`, the shapes that values in between have from the file are forgotten first.
    """
    found = {info.name: info.type.tensor_type for info in (*written.value_info, *written.output)}
    learnt = False
    for value in [value for node in graph for value in node.outputs]:
        kind = found.get(value.name or "")
        if not stated and not value.is_graph_output():
            value.shape = None
        if kind is None or not kind.HasField("shape"):
            continue
        sizes = [size.dim_value if size.HasField("dim_value") else size.dim_param or None for size in kind.shape.dim]
        old = sizes_of(value)
        if old is not None and len(old) == len(sizes):
            sizes = [new if isinstance(new, int) else known for new, known in zip(sizes, old, strict=True)]
        learnt |= old is None or tuple(sizes) != old
        value.shape = ir.Shape(sizes)
        if value.type is None:
            value.type = ir.TensorType(ir.DataType(kind.elem_type))
    return learnt


def _free_part(value: ir.Value) -> Sequence[int | ir.SymbolicDim]:
    """Return the sizes of an input after its axis of rows."""
    return () if value.shape is None else tuple(value.shape)[1:]


def sizes_of(value: ir.Value | None) -> Sizes | None:
    """Return the sizes of a value's axes, or None if not even its rank is known."""
    if value is None or value.shape is None:
        return None
    return tuple(size if isinstance(size, int) else size.value for size in value.shape)


def rank_of(value: ir.Value | None) -> int | None:
    """Return the number of axes, or None if it is not known."""
    sizes = sizes_of(value)
    return None if sizes is None else len(sizes)


def static_size(value: ir.Value | None, axis: int) -> int | None:
    """Return the size of one axis, or None if it is not a known number."""
    sizes = sizes_of(value)
    if sizes is None or not -len(sizes) <= axis < len(sizes):
        return None
    size = sizes[axis]
    return size if isinstance(size, int) else None


def static_sizes(values: Sequence[ir.Value | None], axis: int) -> list[int] | None:
    """Return the sizes of several values along one axis, or None if one is not a known number."""
    sizes = [size for value in values if (size := static_size(value, axis)) is not None]
    return sizes if len(sizes) == len(values) else None


def broadcasts_into(constant: tuple[int, ...], sizes: Sizes | None) -> bool:
    """Return whether a constant of this shape broadcasts into a value without enlarging it."""
    if sizes is None or len(constant) > len(sizes):
        return False
    return all(size in (1, other) for size, other in zip(reversed(constant), reversed(sizes), strict=False))
