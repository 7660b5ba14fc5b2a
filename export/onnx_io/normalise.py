"""Details of files that runtimes read as they are meant, brought into the form that onnx's checker asks for."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper, numpy_helper

FIRST_IR_VERSION_OF_DEFAULTS = 4
"""From this version on an initializer may be an input too, whose default it is; before, every one had to be listed as
an input, and runtimes take it for a constant."""


def normalise(proto: onnx.ModelProto) -> int | None:
    """Normalise a model, in place.

    The standard operators' domain has two spellings. A negative size is free. A graph needs a name. A sparse
    initializer or Constant becomes a dense one. Below IR version 4 an initializer is no input: it is taken from the
    list of inputs, and the version becomes 4.

    Returns:
        The opset of the standard operators; None where the file states none.
    """
    for entry in proto.opset_import:
        entry.domain = "" if entry.domain == "ai.onnx" else entry.domain
    for graph in graphs_of(proto.graph):
        graph.initializer.extend(map(_dense, graph.sparse_initializer))
        del graph.sparse_initializer[:]
        graph.name = graph.name or "graph"
        for value in (*graph.input, *graph.output, *graph.value_info):
            _free_negative_sizes(value.type)
    nodes = [node for graph in graphs_of(proto.graph) for node in graph.node]
    for node in (*nodes, *(node for function in proto.functions for node in function.node)):
        _write_sparse_constant_out(node)
    if 0 < proto.ir_version < FIRST_IR_VERSION_OF_DEFAULTS:
        constants = {tensor.name for tensor in proto.graph.initializer}
        inputs = [value for value in proto.graph.input if value.name not in constants]
        del proto.graph.input[:]
        proto.graph.input.extend(inputs)
        proto.ir_version = FIRST_IR_VERSION_OF_DEFAULTS
    return next((entry.version for entry in proto.opset_import if entry.domain == ""), None)


def freeze_inputs(model: ir.Model) -> None:
    """Make constants of the initializers that are inputs too, in place: no caller overrides them any more."""
    for value in [value for value in model.graph.inputs if value.is_initializer()]:
        model.graph.inputs.remove(value)


def graphs_of(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Yield a graph and the bodies of control flow inside it."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from graphs_of(attribute.g)
            for inner in attribute.graphs:
                yield from graphs_of(inner)


def tensors_of(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Yield the initializers of a graph and the tensors in its nodes' attributes, those inside bodies too."""
    for each in graphs_of(graph):
        yield from each.initializer
        for sparse in each.sparse_initializer:
            yield from (sparse.values, sparse.indices)
        for node in each.node:
            for attribute in node.attribute:
                if attribute.type == onnx.AttributeProto.TENSOR:
                    yield attribute.t
                yield from attribute.tensors


def _dense(sparse: onnx.SparseTensorProto) -> onnx.TensorProto:
    """Return a sparse tensor with all its zeros. Its indices are of rank 1, into the flattened tensor, or of rank 2."""
    values, indices = numpy_helper.to_array(sparse.values), numpy_helper.to_array(sparse.indices)
    array = np.zeros(tuple(sparse.dims), values.dtype)
    if indices.ndim == 1:
        array.reshape(-1)[indices] = values
    else:
        array[tuple(indices.T)] = values
    return numpy_helper.from_array(array, sparse.values.name)


def _write_sparse_constant_out(node: onnx.NodeProto) -> None:
    for attribute in node.attribute if node.op_type == "Constant" else ():
        if attribute.type == onnx.AttributeProto.SPARSE_TENSOR:
            attribute.CopyFrom(helper.make_attribute("value", _dense(attribute.sparse_tensor)))


def _free_negative_sizes(kind: onnx.TypeProto) -> None:
    for size in kind.tensor_type.shape.dim if kind.tensor_type.HasField("shape") else ():
        if size.dim_value < 0:
            size.Clear()
