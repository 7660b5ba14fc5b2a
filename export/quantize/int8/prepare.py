"""Prepare a folded network for ONNX Runtime's quantiser.

requires   a float32 network
ensures    the opset is 13 at least; no Constant nodes; every layer of `layers_of` has a weight and a bias (C_out,) of
its own, but MatMul, which has none; so have ConvTranspose and BatchNormalization their constants;
the global average is a GlobalAveragePool; values have shapes; nodes have names. It computes what it did
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common_passes

from normfold.export.arrays import Array
from normfold.export.errors import QuantizeError
from normfold.export.graph.constants import constant_tensor
from normfold.export.graph.editor import Editor
from normfold.export.graph.inference import infer_shapes
from normfold.export.graph.nodes import node_label, opset_of, unique_labels, unused_node_name
from normfold.export.graph.shapes import rank_of, sizes_of, static_size
from normfold.export.onnx_io.convert_opset import ConversionError, converted
from normfold.export.onnx_io.model_file import load_model
from normfold.export.quantize.int8.layers import Layer, layers_of, read_array

MIN_OPSET = 13
"""The first whose QuantizeLinear and DequantizeLinear have a scale for each channel."""

MAX_BYTES = 19 * 2**31 // 20
"""Of weights: protobuf holds no larger message, and the nodes need some of it."""

_AXES_ARE_INPUTS = 18
_QUANTISED = frozenset(
    {"QuantizeLinear", "DequantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger"}
)


def prepare(path: Path) -> ir.Model:
    """Read a folded network and prepare it.

    Raises:
        ModelFileError: the file cannot be used.
        QuantizeError: it is quantised already, not float32, or too large, or its opset cannot be converted.
    """
    model = load_model(path)
    _check_size(path, model)
    ir.external_data.load_to_model(model)
    _check(path, model)
    model = _with_opset(path, model)
    common_passes.InlinePass()(model)
    common_passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    infer_shapes(model)
    _name_nodes(model.graph)
    editor = Editor(model.graph)
    for node in list(model.graph):
        if _is_global_average(node):
            _replace_by_pool(editor, node)
    for layer in layers_of(model.graph):
        _own_constants(editor, layer)
    for node in list(model.graph):
        if node.domain == "" and node.op_type in ("BatchNormalization", "ConvTranspose"):
            _own_parameters(editor, node)
    common_passes.RemoveUnusedNodesPass()(model)
    return model


def _check_size(path: Path, model: ir.Model) -> None:
    sizes = [value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None]
    if sum(sizes) > MAX_BYTES:
        raise QuantizeError(
            f"{str(path)!r} holds {sum(sizes) / 2**30:.1f} GiB of weights; ONNX Runtime's quantiser takes less than "
            "2 GiB."
        )


def _check(path: Path, model: ir.Model) -> None:
    quantised = next((node for node in model.graph.all_nodes() if node.op_type in _QUANTISED), None)
    if quantised is not None:
        raise QuantizeError(
            f"{str(path)!r} is quantised already: its node {node_label(quantised)!r} is a {quantised.op_type}; give "
            "the float32 network."
        )
    half = next((value for value in model.graph.initializers.values() if value.dtype == ir.DataType.FLOAT16), None)
    if half is not None:
        raise QuantizeError(
            f"{str(path)!r} holds float16 weights, such as {half.name!r}; int8 is made of the float32 network."
        )


def _with_opset(path: Path, model: ir.Model) -> ir.Model:
    opset = model.opset_imports.get("", MIN_OPSET)
    if opset >= MIN_OPSET:
        return model
    try:
        changed = ir.from_proto(converted(ir.to_proto(model), MIN_OPSET))
    except ConversionError as error:
        raise QuantizeError(
            f"{str(path)!r} has opset {opset}, int8 needs {MIN_OPSET}, and onnx's version converter cannot convert it: "
            f"{error}"
        ) from None
    changed.ir_version = model.ir_version
    return changed


def _name_nodes(graph: ir.Graph) -> None:
    """Give nodes names that no two share: ONNX Runtime's quantiser knows them by these.

    A name that a node has alone stays.
    """
    counts = Counter(node.name for node in graph)
    taken = {node.name for node in graph if node.name and counts[node.name] == 1}
    for label, node in zip(unique_labels(graph), graph, strict=True):
        if not node.name or counts[node.name] > 1:
            node.name = unused_node_name(label, taken)


def _is_global_average(node: ir.Node) -> bool:
    """Return whether a ReduceMean averages over all axes but rows and channels."""
    if node.op_type != "ReduceMean" or node.domain != "":
        return False
    rank = rank_of(node.inputs[0])
    if rank is None or rank < 3:
        return False
    if opset_of(node) < _AXES_ARE_INPUTS:
        axes = list(node.attributes.get_ints("axes", ()))
    else:
        tensor = constant_tensor(node.inputs[1]) if len(node.inputs) > 1 else None
        axes = [] if tensor is None else [int(axis) for axis in tensor.numpy()]
    return sorted(axis % rank for axis in axes) == list(range(2, rank))


def _replace_by_pool(editor: Editor, node: ir.Node) -> None:
    """Replace a global average by GlobalAveragePool, which keeps the axes, and a Flatten where they are not kept."""
    source, mean = node.inputs[0], node.outputs[0]
    pool = ir.node("GlobalAveragePool", [source], name=node.name)
    added, result = [pool], pool.outputs[0]
    if not node.attributes.get_int("keepdims", 1):
        result.name = editor.unused_name(f"{mean.name}.kept")
        result.type = mean.type
        result.shape = ir.Shape([*(sizes_of(mean) or (None, None))[:2], *[1] * ((rank_of(source) or 3) - 2)])
        flatten = unused_node_name(f"{node.name}.flatten", {each.name or "" for each in editor.graph})
        added.append(ir.node("Flatten", [result], attributes={"axis": 1}, name=flatten))
        result = added[-1].outputs[0]
    editor.graph.insert_after(node, added)
    name, result.type, result.shape = mean.name, mean.type, mean.shape
    mean.replace_all_uses_with(result, replace_graph_outputs=True)
    editor.graph.remove(node, safe=True)
    mean.name, result.name = None, name


def _own_constants(editor: Editor, layer: Layer) -> None:
    """Give a layer a weight that no other node reads, and a bias (C_out,) of its own, zeros if it has none.

    alpha and beta of a Gemm become part of them: ONNX Runtime's quantiser loses beta.
    """
    node, weight, bias = layer.node, layer.weight, layer.bias
    alpha = node.attributes.get_float("alpha", 1.0) if node.op_type == "Gemm" else 1.0
    beta = node.attributes.get_float("beta", 1.0) if node.op_type == "Gemm" else 1.0
    if len(weight.uses()) > 1 or weight.is_graph_output() or alpha != 1:
        _put(editor, node, 1, alpha * read_array(weight), f"{node.name}.weight")
    if node.op_type == "MatMul":
        return
    outputs = static_size(layer.weight, layer.output_axis)
    assert outputs is not None  # an initializer's shape is known
    values = np.zeros(outputs) if bias is None else beta * read_array(bias).reshape(-1) + np.zeros(outputs)
    if len(node.inputs) < 3:
        node.resize_inputs(3)
    _put(editor, node, 2, values, f"{node.name}.bias")
    node.attributes.pop("alpha", None)
    node.attributes.pop("beta", None)


def _own_parameters(editor: Editor, node: ir.Node) -> None:
    """Give a node constants that no other node reads; those that are no initializers stay."""
    for place, value in enumerate(node.inputs):
        if value is None or not value.is_initializer() or value.is_graph_input() or value.dtype != ir.DataType.FLOAT:
            continue
        if len(value.uses()) > 1 or value.is_graph_output():
            _put(editor, node, place, read_array(value), f"{node.name}.constant{place}")


def _put(editor: Editor, node: ir.Node, place: int, array: Array, name: str) -> None:
    """Make an input of a node an initializer of its own, float32; the old one goes if nothing else reads it."""
    old = node.inputs[place]
    name = editor.unused_name(name)
    value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(ir.DataType.FLOAT))
    value.const_value = ir.tensor(array.astype(np.float32), name=name)
    editor.graph.register_initializer(value)
    node.replace_input_with(place, value)
    editor.remove_unread(old)
