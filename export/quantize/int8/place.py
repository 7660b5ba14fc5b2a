"""Place QuantizeLinear and DequantizeLinear nodes, by ONNX Runtime's QDQQuantizer, with our own ranges and scales."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from normfold.contract.onnxruntime_package import require_onnxruntime
from normfold.export.quantize.int8.choose import INT8_OPERATORS, tail_nodes
from normfold.export.quantize.int8.float_outputs import clipped_by_rounding, give_float_outputs
from normfold.export.quantize.int8.layers import Layer
from normfold.export.quantize.int8.value_names import number_values, restore_names


def place(
    model: ir.Model,
    nodes: Collection[str],
    bounds: Mapping[str, tuple[float, float]],
    scales: Mapping[Layer, npt.NDArray[np.float32]],
) -> ir.Model:
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
    outputs = _take_inputs_from_outputs(proto.graph)
    add_infer_metadata(proto)
    numbers = number_values(proto.graph)
    data = {
        numbers[name]: (np.float32(low), np.float32(high)) for name, (low, high) in bounds.items() if name in numbers
    }
    zero = np.array(0, np.int8)
    overrides: dict[str, list[dict[str, Any]]] = {}
    for layer, each in scales.items():
        if layer.node.name in nodes:
            channels: list[dict[str, Any]] = [{"scale": scale, "zero_point": zero} for scale in each]
            channels[0] |= {"axis": layer.output_axis, "quant_type": QuantType.QInt8}
            overrides[numbers[layer.weight.name or ""]] = channels
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
    placed: onnx.ModelProto = quantizer.quantize_model()
    restore_names(placed.graph, numbers)
    placed.graph.ClearField("output")
    placed.graph.output.extend(outputs)
    result = ir.from_proto(placed)
    result.producer_name, result.producer_version = model.producer_name, model.producer_version
    result.metadata_props.clear()
    result.metadata_props.update(model.metadata_props)
    give_float_outputs(result.graph, tail_nodes(model.graph), clipped_by_rounding(model.graph, result.graph))
    result.graph.sort()
    return result


def _take_inputs_from_outputs(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    """Let no output be an input, in place: the quantiser would make a node that gives one. Return all outputs."""
    outputs = [onnx.ValueInfoProto.FromString(each.SerializeToString()) for each in graph.output]
    inputs = {each.name for each in graph.input}
    graph.ClearField("output")
    graph.output.extend(each for each in outputs if each.name not in inputs)
    return outputs
