"""Files of opsets that ONNX Runtime no longer promises to run, through onnx's version converter.

The converter takes fixed sizes alone, and operands that broadcast from an axis on only where it can prove them right.
So free sizes are fixed while it works, and such operands get the axes that they lack by an Unsqueeze.
"""

from __future__ import annotations

import re

import onnx
from onnx import helper, version_converter

_FIXED_ROWS, _FIXED_SIZE = 1, 224
"""Sizes that stand for free ones while a model is converted: of the first axis, and of the others."""
_OPSET_WITH_SHAPES = 6
"""From this opset on onnx infers shapes behind a BatchNormalization and activations, which conversion to 7 asks for."""
_STATISTICS = ("mean", "var", "saved_mean", "saved_var")
"""What a BatchNormalization in training mode gives out beside its value."""
_BROADCASTING = frozenset({"Add", "And", "Div", "Equal", "Greater", "Less", "Mul", "Or", "Pow", "Sub", "Xor"})


class ConversionError(Exception):
    """The converter knows no way for a node, or the node trains."""


def converted(proto: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """Return a model below opset 7 in another opset; its own stays as it is.

    Raises:
        ConversionError: the converter cannot convert it; its message says why.
    """
    fixed = onnx.ModelProto()
    fixed.CopyFrom(proto)
    del fixed.graph.value_info[:]
    for value in (*fixed.graph.input, *fixed.graph.output):
        _fix_sizes(value.type)
    training = _set_inference_mode(fixed)
    try:
        if any(entry.domain == "" and entry.version < _OPSET_WITH_SHAPES for entry in proto.opset_import):
            fixed = version_converter.convert_version(fixed, _OPSET_WITH_SHAPES)
        _write_axes_out(fixed)
        result = version_converter.convert_version(fixed, opset)
    except Exception as error:  # noqa: BLE001 -- it raises many kinds
        raise ConversionError(re.sub(r"^\S+: .*` failed: ", "", " ".join(str(error).split()))) from None
    _set_training_mode(result, training)
    del result.graph.value_info[:]
    types = {value.name: value for value in (*proto.graph.input, *proto.graph.output)}
    for value in (*result.graph.input, *result.graph.output):
        if value.name in types:
            value.CopyFrom(types[value.name])
    for field in ("producer_name", "producer_version", "domain", "model_version", "doc_string"):
        setattr(result, field, getattr(proto, field))
    del result.metadata_props[:]
    result.metadata_props.extend(proto.metadata_props)
    return result


def _set_inference_mode(model: onnx.ModelProto) -> set[str]:
    """Put every BatchNormalization into inference mode, in place: the converter takes no other.

    Returns:
        The first outputs of those that were in training mode.
    """
    training = set[str]()
    for node in model.graph.node:
        if node.op_type != "BatchNormalization":
            continue
        kept = [each for each in node.attribute if each.name != "is_test"]
        if not any(each.name == "is_test" and each.i for each in node.attribute):
            training.add(node.output[0])
        del node.attribute[:], node.output[1:]
        node.attribute.extend([*kept, helper.make_attribute("is_test", 1)])
    return training


def _set_training_mode(model: onnx.ModelProto, training: set[str]) -> None:
    """Put BatchNormalization nodes into training mode, in place: from opset 7 to 13 five outputs say so."""
    for node in model.graph.node:
        if node.op_type == "BatchNormalization" and node.output[0] in training:
            node.output.extend(f"{node.output[0]}.{name}" for name in _STATISTICS)


def _fix_sizes(kind: onnx.TypeProto) -> None:
    for axis, size in enumerate(kind.tensor_type.shape.dim):
        if not size.HasField("dim_value"):
            size.dim_value = _FIXED_SIZE if axis else _FIXED_ROWS


def _write_axes_out(model: onnx.ModelProto) -> None:
    """Give the second operand of arithmetic, and the slope of a PRelu, the axes behind its last one, in place."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in (*graph.value_info, *graph.input)}
    ranks |= {tensor.name: len(tensor.dims) for tensor in graph.initializer}
    nodes = list(model.graph.node)
    del model.graph.node[:]
    for node in nodes:
        behind = _axes_behind(node, ranks)
        if behind:
            operand = node.input[1]
            node.input[1] = f"{operand}.for.{node.output[0]}"
            axes = [ranks[operand] + place for place in range(behind)]
            model.graph.node.append(helper.make_node("Unsqueeze", [operand], [node.input[1]], axes=axes))
        model.graph.node.append(node)


def _axes_behind(node: onnx.NodeProto, ranks: dict[str, int]) -> int:
    """Return how many axes of the first operand stand behind those of the second; the node then needs no attributes."""
    attributes = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    is_slope = node.op_type == "PRelu"
    if not is_slope and not (node.op_type in _BROADCASTING and attributes.get("broadcast", 0)):
        return 0
    first, second = (ranks.get(name) for name in node.input[:2])
    if first is None or second is None:
        return 0
    if not is_slope:
        kept = [each for each in node.attribute if each.name not in ("axis", "broadcast")]
        del node.attribute[:]
        node.attribute.extend(kept)
    axis = int(attributes.get("axis", 1 if is_slope and second == 1 else first - second))
    return max(first - axis - second, 0)
