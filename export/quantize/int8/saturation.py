"""The static proof: of every layer of a quantised file, the largest sum of two weights that are added in 16 bits."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
from onnx import helper, numpy_helper

from normfold.export.arrays import Tensor
from normfold.export.quantize.int8.layers import LAYER_TYPES, as_rows
from normfold.export.quantize.int8.result import LayerSaturation
from normfold.export.quantize.int8.weights.weight_scales import is_depthwise, pair_sums

_WEIGHT_PLACES = {"QLinearConv": (3, "Conv"), "QLinearMatMul": (3, "MatMul"), "QGemm": (3, "Gemm")}
"""Operators that hold int8 weights themselves: the place of the weight, and what the operator is in float32."""


def saturation(model: onnx.ModelProto) -> tuple[LayerSaturation, ...]:
    """Return the largest pair sum of each layer that multiplies by int8 weights, in graph order.

    Weights are those of a Conv, Gemm or MatMul behind a DequantizeLinear, or of QLinearConv, QLinearMatMul and QGemm.
    Weights in uint8 do not saturate: their products are added in 32 bits.

    Args:
        model: with its weights.
    """
    return tuple(
        LayerSaturation(node.name or node.output[0], int(pair_sums(rows, depthwise).max(initial=0)))
        for node, rows, depthwise in _int8_layers(model.graph)
    )


def _int8_layers(graph: onnx.GraphProto) -> Iterator[tuple[onnx.NodeProto, Tensor, bool]]:
    """Yield each layer's node, its weight as (C_out, C_in / group, taps), and whether it adds no pairs in 16 bits."""
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    dequantised = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    for node in graph.node:
        if node.op_type in _WEIGHT_PLACES:
            place, op_type = _WEIGHT_PLACES[node.op_type]
            name = node.input[place]
        elif node.op_type in LAYER_TYPES:
            op_type, name = node.op_type, dequantised.get(node.input[1], "")
        else:
            continue
        tensor = tensors.get(name)
        if tensor is None or tensor.data_type != onnx.TensorProto.INT8:
            continue
        attributes = {each.name: helper.get_attribute_value(each) for each in node.attribute}
        array = numpy_helper.to_array(tensor)
        axis = 0 if op_type == "Conv" or attributes.get("transB", 0) else array.ndim - 1
        rows = as_rows(array, op_type, axis)
        if rows.ndim > 3:  # a stack of matrices: (N, ..., K, 1)
            rows = rows.reshape(-1, rows.shape[-2], 1)
        yield node, rows, is_depthwise(rows, attributes.get("group", 1))
