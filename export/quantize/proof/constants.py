"""The static proof of scales and constants: every quantised number of an int8 file stands for the right float32 number.

A weight or bias is off by one step of its own scale at most, and the numbers that a scale of activations can hold reach
from the least to the greatest of the values that share it, within one step. Both are exact, and need no data.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from normfold.export.arrays import Tensor
from normfold.export.errors import PrecisionLossError
from normfold.export.quantize.int8.result import Int8Result
from normfold.export.quantize.int8.value_names import constant_name

_STEPS = 1.001
"""Allowed: one, and the rounding of float32."""

_FIXED_RANGE = frozenset({"Softmax"})
"""Operators whose output ONNX Runtime's quantiser gives the range 0 to 1."""


def check_constants(path: Path, result: Int8Result) -> None:
    """Check the weights, biases and scales of an int8 file.

    Args:
        path: of the file.
        result: of the quantisation that wrote it.

    Raises:
        PrecisionLossError: one is wrong or missing; it is named.
    """
    graph = onnx.load(path).graph
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    found = {name: (given, step) for name, given, step in _dequantised(graph, tensors)}
    for name, wanted in result.constants.items():
        if name not in found:
            raise PrecisionLossError(f"The int8 network has lost the constant {name!r} of the float32 network")
        given, step = found[name]
        steps = float(np.max(np.abs(given - wanted) / step, initial=0))
        if not steps <= _STEPS:
            raise PrecisionLossError(
                f"The constant {name!r} of the int8 network differs from the float32 network's by {steps:.3g} steps of "
                "its scale; rounding makes half a step"
            )
    _check_ranges(graph, tensors, result.ranges)


def _dequantised(graph: onnx.GraphProto, tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Yield the name, the float32 numbers, and the step of each quantised constant."""
    for node in graph.node:
        if node.op_type != "DequantizeLinear" or node.input[0] not in tensors:
            continue
        numbers, scale = tensors[node.input[0]].astype(np.float64), tensors[node.input[1]].astype(np.float64)
        zero = tensors[node.input[2]].astype(np.float64) if len(node.input) > 2 else np.zeros_like(scale)
        if scale.ndim:
            attributes = {each.name: helper.get_attribute_value(each) for each in node.attribute}
            across = [1] * numbers.ndim
            across[attributes.get("axis", 1) if numbers.ndim > 1 else 0] = -1
            scale, zero = scale.reshape(across), zero.reshape(across)
        yield constant_name(node.input[0]), (numbers - zero) * scale, np.abs(scale)


def _check_ranges(
    graph: onnx.GraphProto, tensors: Mapping[str, Tensor], ranges: Mapping[str, tuple[float, float]]
) -> None:
    """Check that the scales of activations hold the ranges of their values, and little more.

    Raises:
        PrecisionLossError: one does not.
    """
    producers = {name: node.op_type for node in graph.node for name in node.output}
    given = {node.input[0]: node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    sharing: dict[tuple[str, ...], list[str]] = {}
    fixed: set[tuple[str, ...]] = set()
    for node in graph.node:
        if node.op_type != "QuantizeLinear" or len(node.input) < 3:
            continue
        # An output of the network has its name behind its rounding.
        name = next((each for each in (node.input[0], given.get(node.output[0], "")) if each in ranges), None)
        if name is not None:
            sharing.setdefault(tuple(node.input[1:3]), []).append(name)
            if producers.get(node.input[0]) in _FIXED_RANGE:
                fixed.add(tuple(node.input[1:3]))
    for (scale_name, zero_name), names in sharing.items():
        zero = tensors[zero_name]
        scale, limits = float(tensors[scale_name]), np.iinfo(zero.dtype)
        held = [scale * (limit - int(zero)) for limit in (limits.min, limits.max)]
        bounds = [(min(ranges[name][0], 0.0), max(ranges[name][1], 0.0)) for name in names]
        wanted = [min(low for low, _ in bounds), max(high for _, high in bounds)]
        if (scale_name, zero_name) in fixed:
            continue
        if wanted[1] - wanted[0] < 255 * np.finfo(np.float32).tiny:
            continue  # values that are always 0, as behind a dead channel: any scale holds them
        steps = max(abs(one - other) for one, other in zip(held, wanted, strict=True)) / abs(scale)
        if not steps <= _STEPS:
            raise PrecisionLossError(
                f"The scale {scale_name!r} of the int8 network holds numbers from {held[0]:.4g} to {held[1]:.4g}; the "
                f"values {', '.join(map(repr, names))} reach from {wanted[0]:.4g} to {wanted[1]:.4g}"
            )
