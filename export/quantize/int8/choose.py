"""Choose the nodes of a prepared network that are quantised."""

from __future__ import annotations

from collections.abc import Collection, Container

import numpy as np
import onnx_ir as ir

from normfold.export.graph.constants import constant_tensor
from normfold.export.quantize.int8.layers import LAYER_TYPES, layers_of

INT8_OPERATORS = (
    *("Conv", "Gemm", "MatMul", "Add", "Mul", "Relu", "Clip", "LeakyRelu", "Sigmoid", "Softmax"),
    *("MaxPool", "AveragePool", "GlobalAveragePool", "Concat", "Split", "Resize", "Where"),
    *("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Gather", "Slice"),
)
"""Operators that ONNX Runtime runs on 8-bit numbers, or passes these through."""

_CLIPPING = frozenset({"Relu", "Clip"})
"""Operators whose range ONNX Runtime's quantiser gives to their input too, and which it then removes."""

_TAIL = frozenset({"Softmax", "Sigmoid", "Add", "Mul", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose"})
"""Operators that stay in float32 where nothing but outputs of the network is behind them."""


def chosen_nodes(model: ir.Model, known: Container[str], keep: Collection[str]) -> list[str]:
    """Return the names of the nodes that are quantised.

    Args:
        model: prepared.
        known: names of the values with a range.
        keep: names of nodes that are not.
    """
    layers = {layer.node for layer in layers_of(model.graph)}
    tail = tail_nodes(model.graph)
    return [
        node.name or ""
        for node in model.graph
        if node.domain == ""
        and node.op_type in INT8_OPERATORS
        and node.name not in keep
        and node.name not in tail
        and (node in layers or not _needs_layer(node))
        and not (node.op_type in _CLIPPING and not _may_be_removed(node))
        and not (node.op_type == "Resize" and _exceeds_its_input(node))
        and all(_is_known(value, known) for value in (*node.inputs, *node.outputs) if value is not None)
    ]


def _needs_layer(node: ir.Node) -> bool:
    """Return whether a node can be quantised as a layer alone; a MatMul of two values needs no weight.

    A Gather from a constant table, as of embeddings, would get one scale for the table.
    """
    if node.op_type == "Gather":
        return node.inputs[0] is not None and node.inputs[0].is_initializer()
    if node.op_type == "MatMul":
        return any(value is not None and value.is_initializer() for value in node.inputs)
    return node.op_type in LAYER_TYPES


def _may_be_removed(node: ir.Node) -> bool:
    """Return whether rounding to the range of what a Relu or Clip gives does what it does, to all that read its input.

    ONNX Runtime's quantiser does not look at bodies of control flow, which read values as they are before rounding.
    Every scale holds 0, so that no rounding clips to a bound above or below it.
    """
    value = node.inputs[0]
    if value is None or value.is_graph_output() or value.is_graph_input():
        return False
    if any(use.node.graph is not node.graph for each in (value, node.outputs[0]) for use in each.uses()):
        return False
    bounds = [constant_tensor(each) for each in node.inputs[1:] if each is not None]
    if any(bound is None for bound in bounds):
        return False
    low, high = clipping_limits(node)
    return low <= 0 <= high


def clipping_limits(node: ir.Node) -> tuple[float, float]:
    """Return what a Relu or Clip clips to; infinite where it has no constant bound."""
    if node.op_type == "Relu":
        return 0.0, np.inf
    bounds = [constant_tensor(value) for value in (*node.inputs[1:], None, None)][:2]
    low, high = (None if tensor is None else float(tensor.numpy().reshape(-1)[0]) for tensor in bounds)
    return -np.inf if low is None else low, np.inf if high is None else high


def _exceeds_its_input(node: ir.Node) -> bool:
    """Return whether a Resize gives numbers beyond those that it takes, whose scale its output has."""
    return (
        node.attributes.get_string("mode", "nearest") == "cubic"
        or node.attributes.get_string("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize"
    )


def _is_known(value: ir.Value, known: Container[str]) -> bool:
    """Return whether a value has a range, or needs none: a finite constant, or no float32."""
    if value.is_initializer() and not value.is_graph_input():
        tensor = constant_tensor(value)
        if tensor is not None and tensor.dtype == ir.DataType.FLOAT and not np.isfinite(tensor.numpy()).all():
            return False
        return value.dtype != ir.DataType.FLOAT16
    return value.dtype is not None and (value.dtype != ir.DataType.FLOAT or value.name in known)


def tail_nodes(graph: ir.Graph) -> set[str]:
    """Return the names of the nodes behind the last layers: they are cheap, and their outputs are the network's."""
    tail: dict[ir.Node, str] = {}
    for node in reversed(graph):
        readers = [use.node for value in node.outputs for use in value.uses()]
        if node.op_type in _TAIL and node.domain == "" and all(reader in tail for reader in readers):
            tail[node] = node.name or ""
    return set(tail.values())
