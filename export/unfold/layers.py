"""The layers of a folded network that get a BatchNormalization: linear, constant weights, channels on axis 1."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from normfold.export.arrays import Array
from normfold.export.graph.constants import (
    DerivedConstant,
    constant_dtype,
    constant_shape,
    constant_tensor,
    float64_reader,
    is_constant,
    not_constant_because,
)
from normfold.export.graph.editor import Editor
from normfold.export.graph.nodes import all_nodes, is_batchnorm, node_label, opset_of, sole_reader
from normfold.export.graph.shapes import rank_of
from normfold.export.unfold.insert import drop_bias
from normfold.export.unfold.parameters import parameter_dtype

LAYERS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})

_OPTIONAL_BIAS = 11
"""First opset whose Gemm may do without its third input."""


@dataclass(frozen=True, eq=False)
class FoldedLayer:
    """A layer that a BatchNormalization may have been folded into.

    `value` is what it gives, its bias included. `bias`, (C,), float64, is what `remove_bias` takes out of the layer,
    for the BatchNormalization to add; zeros where there is none, or none of one number for each channel.
    """

    node: ir.Node
    value: ir.Value
    bias: Array
    remove_bias: Callable[[Editor], None] | None
    dtype: ir.DataType
    """Of the parameters of the BatchNormalization."""

    @property
    def channels(self) -> int:
        """Number of channels of its output."""
        return int(self.bias.size)


def find_layers(model: ir.Model) -> tuple[list[FoldedLayer], list[str]]:
    """Return the layers in graph order, and one sentence for each that gets no BatchNormalization."""
    found, left = [], []
    for node in all_nodes(model.graph):
        if node.op_type not in LAYERS or node.domain not in ("", "ai.onnx"):
            continue
        read = _read_layer(node) if node.graph is model.graph else "it stands in the subgraph of a control flow node"
        if isinstance(read, FoldedLayer):
            found.append(read)
        elif read:
            left.append(f"{node.op_type} {node_label(node)!r} gets no BatchNormalization: {read}.")
    return found, left


def _read_layer(node: ir.Node) -> FoldedLayer | str:
    """Return a layer, why it gets no BatchNormalization, or nothing to say of a node that is no layer."""
    if not is_constant(node.inputs[1]):
        is_product = node.op_type == "MatMul" and constant_tensor(node.inputs[1]) is None
        return "" if is_product else f"its weight {not_constant_because(node.inputs[1])}"
    dtype = parameter_dtype(node.outputs[0], opset_of(node))
    if dtype is None:
        return f"its output is {_dtype_name(node.outputs[0])}, for which this opset has no BatchNormalization"
    reader = sole_reader(node.outputs[0])
    if reader is not None and is_batchnorm(reader):
        return "one reads its output already"
    if node.op_type == "MatMul":
        return _read_matmul(node, dtype)
    channels = _channels(node)
    bias = _bias(node, channels)
    if bias is None or not bias.any():
        return FoldedLayer(node, node.outputs[0], np.zeros(channels), None, dtype)
    return FoldedLayer(node, node.outputs[0], bias, lambda editor: _remove_bias(editor, node), dtype)


def _dtype_name(value: ir.Value) -> str:
    return value.dtype.name if value.dtype is not None else "of unknown dtype"


def _channels(node: ir.Node) -> int:
    shape = constant_shape(node.inputs[1])
    if node.op_type == "Gemm":
        return shape[0 if node.attributes.get_int("transB", 0) else 1]
    return shape[0] if node.op_type == "Conv" else shape[1] * node.attributes.get_int("group", 1)


def _bias(node: ir.Node, channels: int) -> Array | None:
    """Return what a layer adds to each channel; None where it adds nothing, or not one constant to a channel."""
    value = node.inputs[2] if len(node.inputs) > 2 else None
    factor = node.attributes.get_float("beta", 1.0) if node.op_type == "Gemm" else 1.0
    if not is_constant(value) or not factor:
        return None
    vector = _along_channels(value, channels, rank=2 if node.op_type == "Gemm" else 1)
    return None if vector is None else factor * vector


def _along_channels(value: ir.Value | None, channels: int, rank: int) -> Array | None:
    """Return a constant as one number for each channel, if it broadcasts so against an array of `rank` axes."""
    shape = constant_shape(value)
    if len(shape) > rank or any(size != 1 for size in shape[:-1]) or shape[-1:] not in ((), (1,), (channels,)):
        return None
    return np.broadcast_to(float64_reader(value)().reshape(-1), channels).copy()


def _remove_bias(editor: Editor, node: ir.Node) -> None:
    """Take a bias away; where the operator must have one, or scales it, zeros stand in its place."""
    is_gemm = node.op_type == "Gemm"
    if is_gemm and (opset_of(node) < _OPTIONAL_BIAS or node.attributes.get_float("beta", 1.0) != 1):
        value, shape = node.inputs[2], constant_shape(node.inputs[2])
        name = (value.name if value is not None else None) or f"{node_label(node)}.bias"
        zeros = DerivedConstant(name, shape, constant_dtype(value), lambda: np.zeros(shape))
        editor.put_constant(node, 2, zeros)
    else:
        drop_bias(editor, node)


def _read_matmul(node: ir.Node, dtype: ir.DataType) -> FoldedLayer | str:
    """Return the product with a constant matrix, and the Add behind it, its bias, if there is one."""
    shape = constant_shape(node.inputs[1])
    if len(shape) != 2 or rank_of(node.outputs[0]) != 2:
        return "its channels are not on axis 1, where BatchNormalization takes them"
    channels, adder = shape[1], sole_reader(node.outputs[0])
    if adder is not None and adder.op_type == "Add" and adder.domain == "":
        constant = next((value for value in adder.inputs if value is not node.outputs[0]), None)
        bias = _along_channels(constant, channels, rank=2) if is_constant(constant) else None
        if bias is not None:
            return FoldedLayer(node, adder.outputs[0], bias, lambda editor: _remove_add(editor, node, adder), dtype)
    return FoldedLayer(node, node.outputs[0], np.zeros(channels), None, dtype)


def _remove_add(editor: Editor, node: ir.Node, adder: ir.Node) -> None:
    name, product = adder.outputs[0].name, node.outputs[0]
    editor.bypass(adder, product)
    product.name = name
