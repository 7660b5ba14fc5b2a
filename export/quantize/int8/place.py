"""Place QuantizeLinear and DequantizeLinear nodes, by ONNX Runtime's QDQQuantizer, with our own ranges and scales."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from normfold.contract.onnxruntime_package import require_onnxruntime
from normfold.export.quantize.int8.layers import LAYER_TYPES, Layer, layers_of

INT8_OPERATORS = (
    *("Conv", "Gemm", "MatMul", "Add", "Mul", "Relu", "Clip", "LeakyRelu", "Sigmoid", "Softmax"),
    *("MaxPool", "AveragePool", "GlobalAveragePool", "Concat", "Split", "Resize", "Where"),
    *("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Gather", "Slice"),
)
"""Operators that ONNX Runtime runs on 8-bit numbers, or passes these through."""

_FLOAT_OUTPUT = frozenset({"Gemm", "MatMul"})
"""Operators whose int8 kernel may give float32."""

_TAIL = frozenset({"Softmax", "Sigmoid", "Add", "Mul", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose"})
"""Operators that stay in float32 where nothing but outputs of the network is behind them."""


def chosen_nodes(model: ir.Model, known: Collection[str], keep: Collection[str]) -> list[str]:
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


def _is_known(value: ir.Value, known: Collection[str]) -> bool:
    """Return whether a value has a range, or needs none: a constant, or no float32."""
    if value.is_initializer() and not value.is_graph_input():
        return value.dtype != ir.DataType.FLOAT16
    return value.dtype is not None and (value.dtype != ir.DataType.FLOAT or value.name in known)


def tail_nodes(graph: ir.Graph) -> set[str]:
    """Return the names of the nodes behind the last layers: they are cheap, and their outputs are the network's."""
    tail: set[str] = set()
    for node in reversed(graph):
        readers = [use.node for value in node.outputs for use in value.uses()]
        if node.op_type in _TAIL and node.domain == "" and all(reader.name in tail for reader in readers):
            tail.add(node.name or "")
    return tail


def place(
    model: ir.Model,
    nodes: Collection[str],
    bounds: Mapping[str, tuple[float, float]],
    scales: Mapping[Layer, npt.NDArray[np.float32]],
) -> onnx.ModelProto:
    """Return the network with QuantizeLinear and DequantizeLinear nodes.

    Args:
        model: prepared; is left as it is.
        nodes: names of those that are quantised.
        bounds: least and greatest of every float32 value that they read and give.
        scales: of the layers' weights, (C_out,).
    """
    require_onnxruntime()
    from onnxruntime.quantization import CalibrationMethod, QuantType
    from onnxruntime.quantization.calibrate import TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
    from onnxruntime.quantization.quant_utils import add_infer_metadata

    proto = ir.to_proto(model)
    add_infer_metadata(proto)
    data = {name: (np.float32(low), np.float32(high)) for name, (low, high) in bounds.items()}
    zero = np.array(0, np.int8)
    overrides: dict[str, list[dict[str, Any]]] = {}
    for layer, each in scales.items():
        if layer.node.name in nodes:
            channels: list[dict[str, Any]] = [{"scale": scale, "zero_point": zero} for scale in each]
            channels[0] |= {"axis": layer.output_axis, "quant_type": QuantType.QInt8}
            overrides[layer.weight.name or ""] = channels
    quantizer = QDQQuantizer(
        proto,
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=TensorsData(CalibrationMethod.MinMax, data),
        nodes_to_quantize=list(nodes),
        nodes_to_exclude=[],
        op_types_to_quantize=list(INT8_OPERATORS),
        extra_options={"TensorQuantOverrides": overrides},
    )
    producer = model.producer_name, model.producer_version
    placed: onnx.ModelProto = quantizer.quantize_model()
    placed.producer_name, placed.producer_version = (each or "" for each in producer)
    del placed.metadata_props[:]
    placed.metadata_props.extend(
        onnx.StringStringEntryProto(key=key, value=text) for key, text in model.metadata_props.items()
    )
    _give_float_outputs(placed, tail_nodes(model.graph), _clipped_by_rounding(model.graph, placed.graph))
    return placed


def _clipped_by_rounding(before: ir.Graph, after: onnx.GraphProto) -> set[str]:
    """Return the names of the nodes behind which a Relu or Clip is gone: rounding to the range from 0 on does the same.

    Args:
        before: nodes were placed.
        after: likewise.
    """
    left = {node.name for node in after.node}
    return {
        node.name or ""
        for node in before
        if any(use.node.name not in left for value in node.outputs for use in value.uses())
    }


def _give_float_outputs(proto: onnx.ModelProto, tail: Collection[str], clipped: Collection[str]) -> None:
    """Remove the last rounding behind a Gemm or MatMul whose output is the network's, in place.

    Args:
        proto: with QuantizeLinear and DequantizeLinear nodes.
        tail: names of nodes that stay in float32.
        clipped: names of nodes whose rounding clips, too: it stays.
    """
    graph = proto.graph
    producers = {name: node for node in graph.node for name in node.output}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    outputs = {value.name for value in graph.output}
    for last in [node for node in graph.node if node.op_type == "DequantizeLinear"]:
        first = producers.get(last.input[0])
        if first is None or first.op_type != "QuantizeLinear" or len(readers[first.output[0]]) != 1:
            continue
        layer, behind = producers.get(first.input[0]), readers.get(last.output[0], [])
        if layer is None or layer.op_type not in _FLOAT_OUTPUT or layer.name in clipped:
            continue
        if len(readers[first.input[0]]) != 1:
            continue
        if all(node.name in tail for node in behind) and (behind or last.output[0] in outputs):
            layer.output[0] = last.output[0]
            graph.node.remove(first)
            graph.node.remove(last)
    used = {name for node in graph.node for name in node.input} | outputs
    unread = [tensor for tensor in graph.initializer if tensor.name not in used]
    for tensor in unread:
        graph.initializer.remove(tensor)
