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
from normfold.export.quantize.int8.layers import Layer, read_array, write_array
from normfold.export.quantize.int8.ranges.channel_ranges import ChannelRange
from normfold.export.quantize.int8.result import EqualisedPair
from normfold.export.quantize.int8.weights.channel_groups import ChannelGroup, channel_groups

MIN_GAIN = 10.0
"""How many times less noise equalising must promise: healthy networks gain nothing from it."""


def equalise(model: ir.Model, ranges: dict[str, ChannelRange]) -> tuple[EqualisedPair, ...]:
    """Equalise what needs it, in place; the network computes what it did, and `ranges` follow.

    Args:
        model: prepared.
        ranges: of its values, by channel.
    """
    pairs = []
    for group in channel_groups(model.graph):
        read = _read_ranges(group, ranges)
        if read is None:
            continue
        weights = [_by_input(layer) for layer in group.readers]
        factor = _factor(read, _maxima(weights))
        if gain(read, weights, factor) < MIN_GAIN:
            continue
        _apply(group, factor)
        for value in group.values:
            if value.name in ranges:
                ranges[value.name] = ranges[value.name].scaled(1 / factor)
        first = ", ".join([*(layer.label for layer in group.writers), *map(node_label, group.norms)])
        second = ", ".join(layer.label for layer in group.readers)
        pairs.append(EqualisedPair(first, second, _spread(read), _spread(read / factor)))
    return tuple(pairs)


def gain(read: Array, weights: Sequence[Array], factor: Array) -> float:
    """Return how many times the noise of what the channels' readers give falls, when channels are divided by a factor.

    Args:
        read: range of each channel, (C,).
        weights: of each reader, (group, C_out / group, C_in / group, taps).
        factor: positive, (C,).
    """
    after = [each * factor.reshape(len(each), 1, -1, 1) for each in weights]
    before_noise, after_noise = noise(read, weights), noise(read / factor, after)
    return before_noise / after_noise if after_noise > 0 else 1.0


def noise(read: Array, weights: Sequence[Array]) -> float:
    """Return the noise over the signal of an output of the readers, in the mean, but for a constant.

    An activation is rounded in steps of the largest channel's range R, and each channel's error is multiplied by its
    weights; a weight is rounded in steps of the output's largest, W, and multiplied by its channel:

        (R² Σ w² + W² Σ r²) / Σ w² r²
    """
    found = []
    for each in weights:
        squares = (each**2).sum(axis=3)
        ranges = (read**2).reshape(len(each), 1, -1)
        signal = (squares * ranges).sum(axis=2)
        of_activations = read.max() ** 2 * squares.sum(axis=2)
        of_weights = np.abs(each).max(axis=(2, 3)) ** 2 * each.shape[3] * ranges.sum(axis=2)
        used = signal > 0
        found.append(((of_activations + of_weights)[used] / signal[used]).reshape(-1))
    joined = np.concatenate(found)
    return float(joined.mean()) if joined.size else 0.0


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
    joined: Array = np.max(found, axis=0)
    return joined


def _maxima(weights: Sequence[Array]) -> Array:
    """Return the largest weight that reads each channel, (C,)."""
    maxima: Array = np.max([np.abs(each).max(axis=(1, 3)).reshape(-1) for each in weights], axis=0)
    return maxima


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
