"""Equalise the channels between layers, where they differ so much in size that 8 bits would lose the small ones.

Behind a layer a channel is divided by a positive factor, and the next layer's weight multiplied by it; what stands
between the two, such as a Relu, lets a positive factor through. With r the range of a channel and w the largest weight
that reads it, the factor is sqrt(r / w): both are then sqrt(r · w).

Source: Nagel et al. 2019, arXiv:1906.04721, section 4.1; there r is the range of the weights before, and all pairs are
equalised.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from normfold.export.arrays import Array
from normfold.export.graph.nodes import node_label
from normfold.export.quantize.int8.channel_groups import ChannelGroup, channel_groups
from normfold.export.quantize.int8.channel_ranges import ChannelRange
from normfold.export.quantize.int8.layers import Layer, read_array, write_array
from normfold.export.quantize.int8.result import EqualisedPair

MIN_GAIN = 4.0
"""How many times less noise power equalising must promise: healthy networks gain nothing from it."""


def equalise(model: ir.Model, ranges: dict[str, ChannelRange]) -> tuple[EqualisedPair, ...]:
    """Equalise what needs it, in place; the network computes what it did, and `ranges` follow.

    Args:
        model: prepared.
        ranges: of its values, by channel.
    """
    pairs = []
    for group in channel_groups(model.graph):
        read, weights = _read_ranges(group, ranges), _weight_ranges(group)
        if read is None or not gain(read, weights) >= MIN_GAIN:
            continue
        factor = _factor(read, weights)
        _apply(group, factor)
        for value in group.values:
            if value.name in ranges:
                ranges[value.name] = ranges[value.name].scaled(1 / factor)
        first = ", ".join([*(layer.label for layer in group.writers), *map(node_label, group.norms)])
        second = ", ".join(layer.label for layer in group.readers)
        pairs.append(EqualisedPair(first, second, _spread(read), _spread(read / factor)))
    return tuple(pairs)


def gain(read: Array, weights: Array) -> float:
    """Return how many times the noise power falls when channels are equalised.

    An activation is rounded in steps of the largest channel's range, and each channel's error is multiplied by its
    weights; a weight is rounded in steps of the largest, and multiplied by its channel: R² Σ w² + W² Σ r².

    Args:
        read: range of each channel, (C,).
        weights: largest weight that reads each channel, (C,).
    """
    before = read.max() ** 2 * np.sum(weights**2) + weights.max() ** 2 * np.sum(read**2)
    both = read * weights
    after = 2 * both.max() * np.sum(both)
    return float(before / after) if after > 0 else 1.0


def _factor(read: Array, weights: Array) -> Array:
    """Return sqrt(r / w) for each channel, so scaled that the largest range stays; 1 where one of the two is 0."""
    used = (read > 0) & (weights > 0)
    factor = np.ones_like(read)
    factor[used] = np.sqrt(read[used] / weights[used])
    factor[used] *= (read[used] / factor[used]).max(initial=0) / read.max(initial=1)
    return factor


def _read_ranges(group: ChannelGroup, ranges: dict[str, ChannelRange]) -> Array | None:
    """Return the range of each channel in what the readers read, (C,); None where one is not known by channel."""
    found: list[Array] = []
    for layer in group.readers:
        value = layer.node.inputs[0]
        known = ranges.get(value.name or "") if value is not None else None
        if known is None or known.extent.size != group.channels:
            return None
        found.append(known.extent)
    return np.max(found, axis=0)


def _weight_ranges(group: ChannelGroup) -> Array:
    return np.max([np.abs(_by_input(layer)).max(axis=(1, 3)).reshape(-1) for layer in group.readers], axis=0)


def _by_input(layer: Layer) -> Array:
    """Return a weight as (group, C_out / group, C_in / group, taps)."""
    rows = layer.rows()
    return rows.reshape(layer.group, -1, *rows.shape[1:])


def _apply(group: ChannelGroup, factor: Array) -> None:
    for layer in group.writers:
        values = layer.values()
        across = [1] * values.ndim
        across[layer.output_axis] = -1
        write_array(layer.weight, values / factor.reshape(across))
        if layer.bias is not None:
            write_array(layer.bias, read_array(layer.bias) / factor)
    for value in (value for node in group.norms for value in node.inputs[1:3] if value is not None):
        write_array(value, read_array(value) / factor)
    for layer in group.readers:
        scaled = _by_input(layer) * factor.reshape(layer.group, 1, -1, 1)
        write_array(layer.weight, _like_weight(scaled, layer))


def _like_weight(by_input: Array, layer: Layer) -> Array:
    """Return (group, C_out / group, C_in / group, taps) in the layout of a layer's weight."""
    shape: Sequence[int] = layer.values().shape
    if layer.node.op_type == "Conv":
        return by_input.reshape(shape)
    rows = by_input.reshape(-1, by_input.shape[2])
    return rows if layer.output_axis == 0 else rows.T


def _spread(read: Array) -> float:
    """Return the largest range of a channel over the smallest; channels of nothing do not count."""
    used = read[read > 0]
    return float(used.max() / used.min()) if used.size else 1.0
