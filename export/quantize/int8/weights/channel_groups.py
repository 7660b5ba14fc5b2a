"""Channels that are the same from some layers to others: all values on which one factor for each channel may lie."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import onnx_ir as ir

from normfold.export.graph.constants import constant_tensor
from normfold.export.graph.nodes import is_batchnorm
from normfold.export.graph.shapes import sizes_of, static_size
from normfold.export.quantize.int8.layers import Layer, layers_of

HOMOGENEOUS = frozenset(
    {"Relu", "LeakyRelu", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Identity"}
)
"""Operators of one input that let a positive factor of each channel through."""


@dataclass(eq=False)
class ChannelGroup:
    """Values with one set of channels, the layers that write them, and those that read them."""

    channels: int = 0
    values: list[ir.Value] = field(default_factory=list)
    writers: list[Layer] = field(default_factory=list)
    norms: list[ir.Node] = field(default_factory=list)
    """BatchNormalization nodes that write them too."""
    readers: list[Layer] = field(default_factory=list)


def channel_groups(graph: ir.Graph) -> Iterator[ChannelGroup]:
    """Yield the groups that layers alone write and read, and operators that let a positive factor through.

    A BatchNormalization that is still there may write them too.

    Args:
        graph: prepared.
    """
    union = _Union()
    layers = {layer.node: layer for layer in layers_of(graph) if layer.node.op_type != "MatMul"}
    for value in (*graph.inputs, *graph.outputs):
        union.freeze(value)
    norms = [node for node in graph if _is_writing_norm(node)]
    for node in graph:
        if node in layers:
            continue
        if node in norms:
            union.freeze(node.inputs[0])
            continue
        inputs = [value for value in node.inputs if value is not None and constant_tensor(value) is None]
        if _lets_through(node, inputs):
            for value in inputs:
                union.join(value, node.outputs[0])
            for value in node.outputs[1:]:
                union.freeze(value)
        else:
            for value in (*inputs, *node.outputs, *_read_in_bodies(node)):
                union.freeze(value)
    groups: dict[ir.Value, ChannelGroup] = {}
    for node, layer in layers.items():
        groups.setdefault(union.root(node.outputs[0]), ChannelGroup()).writers.append(layer)
        source = node.inputs[0]
        assert source is not None  # of a layer
        groups.setdefault(union.root(source), ChannelGroup()).readers.append(layer)
    for node in norms:
        groups.setdefault(union.root(node.outputs[0]), ChannelGroup()).norms.append(node)
    for value in union.values():
        if union.root(value) in groups:
            groups[union.root(value)].values.append(value)
    for root, group in groups.items():
        if (group.writers or group.norms) and group.readers and not union.is_frozen(root) and _agree(group):
            yield group


def _is_writing_norm(node: ir.Node) -> bool:
    """Return whether a node is a BatchNormalization whose scale and shift are constants of its own."""
    if not is_batchnorm(node) or any(value.uses() for value in node.outputs[1:]):
        return False
    return all(
        value is not None and value.is_initializer() and not value.is_graph_input() and len(value.uses()) == 1
        for value in node.inputs[1:3]
    )


def _lets_through(node: ir.Node, inputs: list[ir.Value]) -> bool:
    if node.domain != "":
        return False
    if node.op_type in HOMOGENEOUS:
        return True
    if node.op_type in ("Add", "Sum"):
        sizes = {sizes_of(value) for value in inputs}
        channels = {static_size(value, 1) for value in inputs}
        return len(inputs) == len(node.inputs) and None not in sizes and len(channels) == 1 and None not in channels
    if node.op_type in ("Flatten", "Reshape", "Squeeze") and len(inputs) == 1:
        before, after = sizes_of(inputs[0]), sizes_of(node.outputs[0])
        kept = before is not None and after is not None and len(after) == 2 and before[:2] == after
        return kept and before is not None and all(size == 1 for size in before[2:])
    return False


def _read_in_bodies(node: ir.Node) -> list[ir.Value]:
    """Return the values from outside that the bodies of control flow inside a node read."""
    bodies = [each.as_graph() for each in node.attributes.values() if each.type == ir.AttributeType.GRAPH]
    inner = [value for body in bodies for each in body.all_nodes() for value in each.inputs if value is not None]
    return [value for value in inner if constant_tensor(value) is None]


def _agree(group: ChannelGroup) -> bool:
    """Set the number of channels, and return whether all layers have it."""
    written = {static_size(layer.weight, layer.output_axis) for layer in group.writers}
    written |= {static_size(node.inputs[1], 0) for node in group.norms}
    read = {(static_size(layer.weight, _input_axis(layer)) or 0) * layer.group for layer in group.readers}
    if len(written | read) != 1:
        return False
    (channels,) = read
    group.channels = channels
    return channels > 1


def _input_axis(layer: Layer) -> int:
    return 1 - layer.output_axis


class _Union:
    """Sets of values that have the same channels."""

    def __init__(self) -> None:
        self._parents: dict[ir.Value, ir.Value] = {}
        self._frozen: set[ir.Value] = set()

    def root(self, value: ir.Value) -> ir.Value:
        self._parents.setdefault(value, value)
        while self._parents[value] is not value:
            self._parents[value] = self._parents[self._parents[value]]
            value = self._parents[value]
        return value

    def join(self, one: ir.Value, other: ir.Value) -> None:
        first, second = self.root(one), self.root(other)
        self._parents[first] = second
        if first in self._frozen:
            self._frozen.add(second)

    def freeze(self, value: ir.Value | None) -> None:
        if value is None:
            return
        self._frozen.add(self.root(value))

    def is_frozen(self, value: ir.Value) -> bool:
        return self.root(value) in self._frozen

    def values(self) -> list[ir.Value]:
        return list(self._parents)
