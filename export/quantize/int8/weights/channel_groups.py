"""Channels that are the same from some layers to others: all values on which one factor for each channel may lie."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from normfold.export.quantize.int8.weights.factor_layers import FactorLayer, factor_layers
from normfold.export.quantize.int8.weights.numbered_channels import FIXED, NumberedChannels, Numbering, Numbers


@dataclass(frozen=True, eq=False)
class ChannelGroup:
    """Values whose channels are joined, and the layers that write and read them.

    A group has one factor for each set of channels that must have the same one. Arrays of places say which of these
    factors each channel has; the last place is that of channels that have none: their factor is 1.
    """

    factors: int
    """How many factors it has, that of the last place not counted."""
    values: dict[ir.Value, Numbers] = field(default_factory=dict)
    """Places, in an array that broadcasts against the value; in the order of the graph."""
    writers: list[tuple[FactorLayer, Numbers]] = field(default_factory=list)
    """Layers, and the place of each channel that they give."""
    readers: list[tuple[FactorLayer, Numbers]] = field(default_factory=list)
    """Layers, and the place of each channel that they read."""


def channel_groups(graph: ir.Graph) -> Iterator[ChannelGroup]:
    """Yield the groups that layers write and read, as far as some of their channels take a factor.

    Args:
        graph: prepared.
    """
    layers = {layer.node: layer for layer in factor_layers(graph)}
    channels = NumberedChannels(graph, layers)
    values = channels.values()
    together = _joined_values(values)
    written = [(layer, channels.by_channel(layer.result, layer.outputs)) for layer in layers.values()]
    read = [(layer, channels.by_channel(layer.source, layer.inputs)) for layer in layers.values()]
    sets: dict[int, list[Numbers]] = {}
    for numbers in values.values():
        free = np.unique(numbers[numbers != FIXED])
        if free.size:
            sets.setdefault(int(together.of(free[:1])[0]), []).append(free)
    for key, each in sets.items():
        members = np.unique(np.concatenate(each))
        group = ChannelGroup(len(members))
        for value, numbers in values.items():
            if _is_in(numbers, together, key):
                group.values[value] = _places(numbers, members)
        for found, ends in ((written, group.writers), (read, group.readers)):
            ends += [
                (layer, _places(numbers, members))
                for layer, numbers in found
                if numbers is not None and _is_in(numbers, together, key)
            ]
        if group.writers and group.readers:
            yield group


def _joined_values(values: dict[ir.Value, Numbers]) -> Numbering:
    """Return sets of the numbers that are on one value, or on several that have a number in common."""
    together = Numbering()
    together.new(max((int(numbers.max()) for numbers in values.values()), default=FIXED) - FIXED)
    for numbers in values.values():
        free = np.unique(numbers[numbers != FIXED])
        if free.size:
            together.join(free, free[:1])
    return together


def _is_in(numbers: Numbers, together: Numbering, key: int) -> bool:
    free = numbers[numbers != FIXED]
    return bool(free.size) and int(together.of(free[:1])[0]) == key


def _places(numbers: Numbers, members: Numbers) -> Numbers:
    """Return the place of each number among the members; behind the last of them where it is fixed."""
    return np.where(numbers == FIXED, len(members), np.searchsorted(members, numbers))
