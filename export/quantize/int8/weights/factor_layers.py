"""Layers that take factors of channels: what they read is multiplied by one, what they give divided by one.

Besides those whose weights become int8 these are ConvTranspose, and a BatchNormalization that is still there.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from normfold.export.arrays import Array
from normfold.export.graph.nodes import is_batchnorm
from normfold.export.graph.shapes import rank_of, static_size
from normfold.export.quantize.int8.layers import Layer, layers_of, read_array, write_array


class FactorLayer(ABC):
    """A layer whose constants no other node reads.

    Attributes:
        node: the layer.
        inputs: number of channels that it reads.
        outputs: number of channels that it gives.
    """

    rounds_weight: ClassVar[bool]
    """Its weight becomes int8."""

    def __init__(self, node: ir.Node, inputs: int, outputs: int) -> None:
        self.node, self.inputs, self.outputs = node, inputs, outputs

    @property
    def source(self) -> ir.Value:
        """The value that it reads."""
        return self._input(0)

    @property
    def result(self) -> ir.Value:
        """The value that it gives."""
        return self.node.outputs[0]

    @abstractmethod
    def by_input(self) -> Array:
        """Return the weight as (group, C_out / group, C_in / group, taps)."""

    @abstractmethod
    def multiply_inputs(self, factor: Array) -> None:
        """Multiply the weight by a factor of each channel that is read, (C_in,), in place."""

    @abstractmethod
    def divide_outputs(self, factor: Array) -> None:
        """Divide weight and bias by a factor of each channel that is given, (C_out,), in place."""

    def _input(self, place: int) -> ir.Value:
        value = self.node.inputs[place]
        assert value is not None  # `factor_layers` looks at those that are read here
        return value

    def _multiply(self, place: int, factor: Array) -> None:
        if place < len(self.node.inputs) and self.node.inputs[place] is not None:
            write_array(self._input(place), read_array(self._input(place)) * factor)


class _Int8Layer(FactorLayer):
    """A Conv or Gemm."""

    rounds_weight = True

    def __init__(self, layer: Layer, inputs: int, outputs: int) -> None:
        super().__init__(layer.node, inputs, outputs)
        self._layer = layer

    def by_input(self) -> Array:
        rows = self._layer.rows()
        return rows.reshape(self._layer.group, -1, *rows.shape[1:])

    def multiply_inputs(self, factor: Array) -> None:
        by_group = factor.reshape(self._layer.group, 1, -1).repeat(self.outputs // self._layer.group, axis=1)
        self._multiply(1, self._like_weight(by_group.reshape(self.outputs, -1)))

    def divide_outputs(self, factor: Array) -> None:
        self._multiply(1, self._like_weight(1 / factor[:, None]))
        self._multiply(2, 1 / factor)

    def _like_weight(self, factor: Array) -> Array:
        """Return (C_out, C_in / group), of which an axis may be 1, in a shape that broadcasts against the weight."""
        rank = rank_of(self._layer.weight) or 2
        return factor.T if self._layer.output_axis else factor.reshape(*factor.shape, *[1] * (rank - 2))


class _ConvTranspose(FactorLayer):
    """A ConvTranspose: its weight is (C_in, C_out / group, taps)."""

    rounds_weight = False

    @property
    def _group(self) -> int:
        return self.node.attributes.get_int("group", 1)

    def by_input(self) -> Array:
        weight = read_array(self._input(1))
        by_group = weight.reshape(self._group, self.inputs // self._group, self.outputs // self._group, -1)
        return np.swapaxes(by_group, 1, 2)

    def multiply_inputs(self, factor: Array) -> None:
        self._multiply(1, factor.reshape(-1, *[1] * ((rank_of(self._input(1)) or 2) - 1)))

    def divide_outputs(self, factor: Array) -> None:
        rank = rank_of(self._input(1)) or 2
        by_group = (1 / factor).reshape(self._group, -1).repeat(self.inputs // self._group, axis=0)
        self._multiply(1, by_group.reshape(*by_group.shape, *[1] * (rank - 2)))
        self._multiply(2, 1 / factor)


class _BatchNorm(FactorLayer):
    """A BatchNormalization: one weight for each channel."""

    rounds_weight = False

    def by_input(self) -> Array:
        scale, running_var = read_array(self._input(1)), read_array(self._input(4))
        gain: Array = scale / np.sqrt(running_var + self.node.attributes.get_float("epsilon", 1e-5))
        return gain.reshape(-1, 1, 1, 1)

    def multiply_inputs(self, factor: Array) -> None:
        self._multiply(1, factor)
        self._multiply(3, 1 / factor)

    def divide_outputs(self, factor: Array) -> None:
        self._multiply(1, 1 / factor)
        self._multiply(2, 1 / factor)


def factor_layers(graph: ir.Graph) -> Iterator[FactorLayer]:
    """Yield the layers of a prepared graph that take factors, in order; a MatMul has channels on its last axis."""
    layers = {layer.node: layer for layer in layers_of(graph) if layer.node.op_type != "MatMul"}
    for node in graph:
        if (layer := layers.get(node)) is not None:
            outputs = static_size(layer.weight, layer.output_axis)
            inputs = static_size(layer.weight, 1 - layer.output_axis)
            if inputs is not None and outputs is not None:
                yield _Int8Layer(layer, inputs * layer.group, outputs)
        elif node.op_type == "ConvTranspose" and node.domain == "" and _has_own_constants(node):
            inputs, by_group = (static_size(node.inputs[1], axis) for axis in (0, 1))
            if inputs is not None and by_group is not None:
                yield _ConvTranspose(node, inputs, by_group * node.attributes.get_int("group", 1))
        elif is_batchnorm(node) and _normalises_by_constants(node):
            channels = static_size(node.inputs[1], 0)
            if channels is not None:
                yield _BatchNorm(node, channels, channels)


def _has_own_constants(node: ir.Node) -> bool:
    """Return whether all inputs but the first are float32 initializers that no other node reads."""
    return all(
        value.is_initializer()
        and not value.is_graph_input()
        and not value.is_graph_output()
        and len(value.uses()) == 1
        and value.dtype == ir.DataType.FLOAT
        for value in node.inputs[1:]
        if value is not None
    )


def _normalises_by_constants(norm: ir.Node) -> bool:
    """Return whether a BatchNormalization normalises by constants of its own, one a channel, and gives one value."""
    if any(value.uses() for value in norm.outputs[1:]) or norm.attributes.get_int("training_mode", 0) != 0:
        return False
    return _has_own_constants(norm) and rank_of(norm.inputs[1]) == 1
