"""The layers whose weights become int8: Conv, Gemm, and MatMul by a constant.

A weight is seen as a matrix with one row for each output, in the order in which ONNX Runtime's kernels add the
products of a row: a Conv's by tap, and by input channel within a tap.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from normfold.export.arrays import Array, Tensor
from normfold.export.graph.nodes import all_graphs, node_label
from normfold.export.graph.shapes import rank_of, sizes_of

LAYER_TYPES = ("Conv", "Gemm", "MatMul")


@dataclass(frozen=True, eq=False)
class Layer:
    """One layer of a prepared network, whose weight and bias no other node reads."""

    node: ir.Node

    @property
    def label(self) -> str:
        """What a person can find the layer by."""
        return node_label(self.node)

    @property
    def weight(self) -> ir.Value:
        """The initializer, as the node has it."""
        value = self.node.inputs[1]
        assert value is not None  # of every layer that `layers_of` finds
        return value

    @property
    def bias(self) -> ir.Value | None:
        """The initializer (C_out,), or None."""
        return self.node.inputs[2] if len(self.node.inputs) > 2 else None

    @property
    def group(self) -> int:
        """Number of groups of a Conv; 1 for others."""
        return self.node.attributes.get_int("group", 1)

    @property
    def output_axis(self) -> int:
        """The axis of the weight that holds the outputs."""
        transposed = self.node.op_type == "Gemm" and self.node.attributes.get_int("transB", 0) != 0
        return 0 if self.node.op_type == "Conv" or transposed else 1

    def values(self) -> Array:
        """Return the weight in float64, as the node has it."""
        return read_array(self.weight)

    def rows(self) -> Array:
        """Return the weight as (C_out, C_in / group, taps)."""
        rows: Array = as_rows(self.values(), self.node.op_type, self.output_axis)
        return rows


def layers_of(graph: ir.Graph) -> Iterator[Layer]:
    """Yield the layers of a graph, in order; those in bodies of control flow are not looked at."""
    for node in graph:
        if node.domain == "" and node.op_type in LAYER_TYPES and _is_layer(node):
            yield Layer(node)


def layers_in_bodies(graph: ir.Graph) -> int:
    """Return how many Conv, Gemm and MatMul nodes are inside bodies of control flow."""
    return sum(node.op_type in LAYER_TYPES for body in all_graphs(graph)[1:] for node in body)


def why_no_layers(graph: ir.Graph) -> str:
    """Return why a graph has no layers that become int8, as the end of a sentence."""
    for node in graph:
        if node.domain != "" or node.op_type not in LAYER_TYPES:
            continue
        weight = node.inputs[1]
        if weight is not None and weight.dtype not in (None, ir.DataType.FLOAT):
            return f"the weight of its {node.op_type} {node_label(node)!r} is {weight.dtype.numpy().name}, not float32"
    where = ", bodies of control flow apart," if layers_in_bodies(graph) else ""
    return f"no {', '.join(LAYER_TYPES[:-1])} or {LAYER_TYPES[-1]}{where} has a constant weight"


def _is_layer(node: ir.Node) -> bool:
    """Return whether a node's weight is a constant matrix or kernel, and its bias None or one constant an output."""
    weight, bias = node.inputs[1], node.inputs[2] if len(node.inputs) > 2 else None
    if not _is_float_constant(weight) or node.attributes.get_int("transA", 0) != 0:
        return False
    rank = rank_of(weight)
    if node.op_type == "Conv":
        return rank is not None and rank > 2 and (bias is None or _is_float_constant(bias))
    if rank != 2:
        return False
    sizes = sizes_of(bias) if _is_float_constant(bias) else None
    return bias is None or (sizes is not None and len(sizes) < 3 and (len(sizes) < 2 or sizes[0] == 1))


def _is_float_constant(value: ir.Value | None) -> bool:
    if value is None or not value.is_initializer() or value.is_graph_input():
        return False
    return value.const_value is not None and value.const_value.dtype == ir.DataType.FLOAT


def as_rows(weight: Tensor, op_type: str, output_axis: int) -> Tensor:
    """Return a weight as (C_out, C_in / group, taps)."""
    if op_type == "Conv":
        return weight.reshape(*weight.shape[:2], -1)
    rows: Tensor = np.moveaxis(weight, output_axis, 0)[..., None]
    return rows


def read_array(value: ir.Value) -> Array:
    """Return an initializer in float64."""
    tensor = value.const_value
    assert tensor is not None  # of an initializer
    array: Array = tensor.numpy().astype(np.float64)
    return array


def write_array(value: ir.Value, array: Array) -> None:
    """Give an initializer other values of the same shape, rounded to its dtype."""
    assert value.dtype is not None  # of an initializer
    value.const_value = ir.Tensor(array.astype(value.dtype.numpy()), name=value.name)
