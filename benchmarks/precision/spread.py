"""Spread the channels of a network over three decades without a change of its function.

What a layer gives is multiplied by a positive factor for each channel, and the layers that read it divide by the same
factor; a BatchNormalization is such a layer too, and its statistics follow. Between the layers stand operators that let
a positive factor through; where an Add joins channels, the same factors lie on both sides.

The code knows nothing of Normfold's own equalisation, which it is a test of.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

DECADES = 3.0
_LETTING_THROUGH = frozenset(
    {"Relu", "LeakyRelu", "MaxPool", "AveragePool", "GlobalAveragePool", "ReduceMean", "Resize", "Add", "Concat"}
)
_LAYERS = frozenset({"Conv", "ConvTranspose", "Gemm", "BatchNormalization"})

Numbers = npt.NDArray[np.int64]
Array = npt.NDArray[np.float64]


def spread_channels(source: Path, target: Path, rng: np.random.Generator) -> int:
    """Write a network with spread channels; return how many factors other than 1 lie on its channels."""
    model = onnx.load(source)
    channels = _Channels(model.graph)
    factors = 10 ** rng.uniform(-DECADES / 2, DECADES / 2, len(channels.parents))
    factors[channels.root(0)] = 1
    for node in model.graph.node:
        if node.op_type in _LAYERS:
            read, given = (factors[channels.roots(name)] for name in (node.input[0], node.output[0]))
            _scale(node, channels.tensors, read, given)
    onnx.save(model, target)
    return len({channels.root(number) for number in range(len(factors))} - {channels.root(0)})


class _Channels:
    """A number for each channel of each value: channels with one number have one factor, those of number 0 none."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.parents = [0]
        self.tensors = {tensor.name: tensor for tensor in graph.initializer}
        self._numbers: dict[str, Numbers] = {}
        uses = [name for node in graph.node if node.op_type in _LAYERS for name in node.input[1:] if name]
        for node in graph.node:
            inputs = [name for name in node.input if name and name not in self.tensors]
            if node.op_type in _LAYERS and all(uses.count(name) == 1 for name in node.input[1:] if name):
                count = _sizes(node, self.tensors)[0]
                self._numbers[node.output[0]] = np.arange(len(self.parents), len(self.parents) + count)
                self.parents += self._numbers[node.output[0]].tolist()
                self._fix_unless(len(self._of(inputs[0])) == _sizes(node, self.tensors)[1], inputs[0])
            elif node.op_type == "Concat" and _axis(node) == 1 and all(name in self._numbers for name in inputs):
                self._numbers[node.output[0]] = np.concatenate([self._of(name) for name in inputs])
            elif node.op_type in _LETTING_THROUGH - {"Concat"}:
                for name in inputs[1:]:
                    self._join(self._of(inputs[0]), self._of(name))
                self._numbers[node.output[0]] = self._of(inputs[0])
            else:
                for name in inputs:
                    self._fix_unless(False, name)
        for value in graph.output:
            self._fix_unless(False, value.name)

    def root(self, number: int) -> int:
        while self.parents[number] != number:
            number = self.parents[number]
        return number

    def roots(self, name: str) -> Numbers:
        return np.array([self.root(number) for number in self._of(name)])

    def _of(self, name: str) -> Numbers:
        return self._numbers.get(name, np.zeros(1, np.int64))

    def _join(self, first: Numbers, second: Numbers) -> None:
        for one, other in zip(*np.broadcast_arrays(first, second), strict=True):
            least, other = sorted((self.root(one), self.root(other)))
            self.parents[other] = least

    def _fix_unless(self, is_free: bool, name: str) -> None:
        if not is_free:
            self._join(self._of(name), np.zeros(1, np.int64))


def _axis(node: onnx.NodeProto) -> int:
    return next(int(each.i) for each in node.attribute if each.name == "axis")


def _attribute(node: onnx.NodeProto, name: str, default: float) -> float:
    found = [helper.get_attribute_value(each) for each in node.attribute if each.name == name]
    return float(found[0]) if found else default


def _sizes(node: onnx.NodeProto, tensors: dict[str, onnx.TensorProto]) -> tuple[int, int]:
    """Return how many channels a layer gives and reads."""
    sizes = tensors[node.input[1]].dims
    if node.op_type == "BatchNormalization":
        return sizes[0], sizes[0]
    if node.op_type == "Gemm" and not _attribute(node, "transB", 0):
        return sizes[1], sizes[0]
    if node.op_type == "ConvTranspose":
        return sizes[1] * int(_attribute(node, "group", 1)), sizes[0]
    return sizes[0], sizes[1] * int(_attribute(node, "group", 1))


def _scale(node: onnx.NodeProto, tensors: dict[str, onnx.TensorProto], read: Array, given: Array) -> None:
    """Let a layer divide what it reads by factors, and multiply what it gives by factors."""
    if node.op_type == "BatchNormalization":
        scale, shift, mean, var = (numpy_helper.to_array(tensors[name]).astype(np.float64) for name in node.input[1:])
        epsilon = _attribute(node, "epsilon", 1e-5)
        kept = np.sqrt((read**2 * var + epsilon) / (var + epsilon)) / read
        changed = [scale * kept * given, shift * given, mean * read, var * read**2]
    else:
        weight = numpy_helper.to_array(tensors[node.input[1]]).astype(np.float64)
        outputs, inputs = _sizes(node, tensors)
        across = _by_weight(np.broadcast_to(given, outputs), np.broadcast_to(1 / read, inputs), node)
        changed = [weight * across.reshape(*across.shape, *[1] * (weight.ndim - 2))]
        if len(node.input) > 2:
            changed.append(numpy_helper.to_array(tensors[node.input[2]]) * given)
    for name, array in zip(node.input[1:], changed, strict=True):
        tensors[name].CopyFrom(numpy_helper.from_array(array.astype(np.float32), name))


def _by_weight(given: Array, read: Array, node: onnx.NodeProto) -> Array:
    """Return the product of the factors of outputs and inputs, for the first two axes of a layer's weight."""
    group = int(_attribute(node, "group", 1))
    products = [
        np.outer(*each) for each in zip(given.reshape(group, -1), read.reshape(group, -1), strict=True)
    ]  # (C_out / group, C_in / group)
    is_turned = node.op_type == "ConvTranspose" or (node.op_type == "Gemm" and not _attribute(node, "transB", 0))
    return np.concatenate([each.T if is_turned else each for each in products])
