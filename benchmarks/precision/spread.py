"""Spread the channels of a network over three decades without a change of its function.

A BatchNormalization's scale and shift are multiplied by a positive factor for each channel, and the weights of the
layers that read the channels are divided by it. Between the two stand operators that let a positive factor through;
where an Add joins channels, the same factors lie on both sides.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

DECADES = 3.0
_BETWEEN = frozenset({"Relu", "MaxPool", "AveragePool", "GlobalAveragePool", "ReduceMean", "Add"})


def spread_channels(source: Path, target: Path, rng: np.random.Generator) -> int:
    """Write a network with spread channels; return the number of BatchNormalization nodes whose channels were."""
    model = onnx.load(source)
    graph = model.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    parents: dict[str, str] = {}

    def root(name: str) -> str:
        while parents.setdefault(name, name) != name:
            name = parents[name]
        return name

    for node in graph.node:
        if node.op_type in _BETWEEN:
            for name in node.input:
                if name not in tensors:
                    parents[root(name)] = root(node.output[0])
    writers, readers, fixed = defaultdict(list), defaultdict(list), set()
    fixed |= {root(value.name) for value in (*graph.input, *graph.output)}
    for node in graph.node:
        if node.op_type == "BatchNormalization":
            writers[root(node.output[0])].append(node)
            fixed.add(root(node.input[0]))
        elif node.op_type in ("Conv", "Gemm"):
            readers[root(node.input[0])].append(node)
            fixed.add(root(node.output[0]))
        elif node.op_type not in _BETWEEN:
            fixed |= {root(name) for name in (*node.input, *node.output) if name}
    count = 0
    for group, norms in writers.items():
        channels = {numpy_helper.to_array(tensors[norm.input[1]]).size for norm in norms}
        if group in fixed or len(channels) != 1 or not readers[group]:
            continue
        factor = 10 ** rng.uniform(-DECADES / 2, DECADES / 2, channels.pop())
        across = [_factor_for(reader, tensors[reader.input[1]], factor) for reader in readers[group]]
        if any(each is None for each in across):
            continue
        for reader, each in zip(readers[group], across, strict=True):
            assert each is not None  # as above
            _multiply(tensors[reader.input[1]], 1 / each)
        for norm in norms:
            for name in norm.input[1:3]:
                _multiply(tensors[name], factor)
        count += len(norms)
    onnx.save(model, target)
    return count


def _factor_for(reader: onnx.NodeProto, weight: onnx.TensorProto, factor: np.ndarray) -> np.ndarray | None:
    """Return the factor in the shape of the reader's weight; None where the weight has other channels."""
    attributes = {each.name: onnx.helper.get_attribute_value(each) for each in reader.attribute}
    outputs, inputs = weight.dims[:2]
    if reader.op_type == "Gemm":
        axis = 1 if attributes.get("transB", 0) else 0
        if weight.dims[axis] != factor.size:
            return None
        return factor.reshape([-1 if place == axis else 1 for place in range(2)])
    group = attributes.get("group", 1)
    if inputs * group != factor.size:
        return None
    by_group = factor.reshape(group, 1, -1).repeat(outputs // group, axis=1).reshape(outputs, inputs)
    return by_group.reshape(*by_group.shape, *[1] * (len(weight.dims) - 2))


def _multiply(tensor: onnx.TensorProto, factor: np.ndarray) -> None:
    array = numpy_helper.to_array(tensor) * factor
    tensor.CopyFrom(numpy_helper.from_array(array.astype(np.float32), tensor.name))
