"""Equalise the channels between layers, where they differ so much in size that 8 bits would lose the small ones.

Behind a layer a channel is divided by a positive factor, and the weights that read it are multiplied by it; what stands
between the two, such as a Relu or a Concat, lets a positive factor through. With r the range of a channel and w the
largest weight that reads it, the factor is sqrt(r / w): both are then sqrt(r · w).

Source: Nagel et al. 2019, arXiv:1906.04721, section 4.1; there r is the range of the weights before, and all pairs are
equalised.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from normfold.export.arrays import Array
from normfold.export.graph.nodes import node_label
from normfold.export.quantize.int8.ranges.channel_ranges import ChannelRange
from normfold.export.quantize.int8.result import EqualisedPair
from normfold.export.quantize.int8.weights.channel_groups import ChannelGroup, channel_groups
from normfold.export.quantize.int8.weights.numbered_channels import LAYOUTS, Numbers

MIN_GAIN = 10.0
"""How many times less noise equalising must promise: healthy networks gain nothing from it."""

MIN_RANGE = 1e-6
"""Of the largest: a channel with a smaller range is taken for one of this size, so that no factor is extreme."""


@dataclass(frozen=True, eq=False)
class Read:
    """How a layer reads the channels of a group.

    Attributes:
        ranges: of each channel that it reads, (C_in,).
        weight: (group, C_out / group, C_in / group, taps).
        places: of the factor of each channel, (C_in,).
        rounds_weight: the weight becomes int8.
    """

    ranges: Array
    weight: Array
    places: Numbers
    rounds_weight: bool = True

    def scaled(self, factor: Array) -> Read:
        """Return the same with channels divided, and weights multiplied, by the factors of a group."""
        own = factor[self.places]
        weight = self.weight * own.reshape(len(self.weight), 1, -1, 1)
        return Read(self.ranges / own, weight, self.places, self.rounds_weight)


def equalise(model: ir.Model, ranges: dict[str, ChannelRange]) -> tuple[EqualisedPair, ...]:
    """Equalise what needs it, in place; the network computes what it did, and `ranges` follow.

    Args:
        model: prepared.
        ranges: of its values, by channel.
    """
    pairs = []
    for group in channel_groups(model.graph):
        reads = _reads(group, ranges)
        if reads is None:
            continue
        factor = best_factor(reads, group.factors)
        after = [each.scaled(factor) for each in reads]
        if gain(reads, after) < MIN_GAIN:
            continue
        for layer, places in group.readers:
            layer.multiply_inputs(factor[places])
        for layer, places in group.writers:
            layer.divide_outputs(factor[places])
        _scale_ranges(group, ranges, factor)
        first, second = (
            ", ".join(node_label(layer.node) for layer, _ in ends) for ends in (group.writers, group.readers)
        )
        changed = tuple(value.name or "" for value in group.values)
        pairs.append(EqualisedPair(first, second, _spread(reads), _spread(after), changed))
    return tuple(pairs)


def gain(before: Sequence[Read], after: Sequence[Read]) -> float:
    """Return how many times the noise of what the readers of a group give falls."""
    noise_after = noise(after)
    return noise(before) / noise_after if noise_after > 0 else 1.0


def noise(reads: Sequence[Read]) -> float:
    """Return the noise over the signal of an output of the readers, in the mean, but for a constant.

    An activation is rounded in steps of the largest channel's range R, and each channel's error is multiplied by its
    weights; a weight is rounded in steps of the output's largest, W, and multiplied by its channel:

        (R² Σ w² + W² Σ r²) / Σ w² r²
    """
    found = []
    for each in reads:
        squares = (each.weight**2).sum(axis=3)
        ranges = (each.ranges**2).reshape(len(each.weight), 1, -1)
        signal = (squares * ranges).sum(axis=2)
        total = each.ranges.max() ** 2 * squares.sum(axis=2)
        if each.rounds_weight:
            total += np.abs(each.weight).max(axis=(2, 3)) ** 2 * each.weight.shape[3] * ranges.sum(axis=2)
        used = signal > 0
        found.append((total[used] / signal[used]).reshape(-1))
    joined = np.concatenate(found)
    return float(joined.mean()) if joined.size else 0.0


def best_factor(reads: Sequence[Read], factors: int) -> Array:
    """Return the factors of a group, (factors + 1,): the last is 1.

    Where weights that are rounded read a channel, its factor is sqrt(r / w) times one constant for all: so that the
    largest range stays, or, where some channels take no factor, so that ranges and weights keep the proportion of
    these. A channel that BatchNormalization alone reads gets the range of the largest. The factor is 1 where a range is
    0, or nothing reads the channel.
    """
    ranges, weights = np.zeros(factors + 1), np.zeros(factors + 1)
    for each in reads:
        np.maximum.at(ranges, each.places, each.ranges)
        if each.rounds_weight:
            maxima = np.abs(each.weight).max(axis=(1, 3)).reshape(-1)
            np.maximum.at(weights, each.places, maxima)
    ranges = np.where(ranges > 0, np.maximum(ranges, MIN_RANGE * ranges.max()), 0)
    free = np.arange(factors + 1) < factors
    used = (ranges > 0) & (weights > 0)
    factor, equal = np.ones(factors + 1), np.sqrt(ranges * weights)
    weighed = free & used
    if used[-1]:
        level = np.sqrt(ranges[-1] / weights[-1])
    else:
        level = ranges[weighed].max(initial=0) / max(equal[weighed].max(initial=0), np.finfo(float).tiny)
    factor[weighed] = ranges[weighed] / (level * equal[weighed])
    unweighed = free & (ranges > 0) & (weights == 0)
    reached = (ranges / factor)[~unweighed].max(initial=0) or ranges.max(initial=0)
    factor[unweighed] = ranges[unweighed] / reached
    return factor


def _reads(group: ChannelGroup, ranges: dict[str, ChannelRange]) -> list[Read] | None:
    """Return how the readers of a group read it; None where a range is not known by channel."""
    found = []
    for layer, places in group.readers:
        known = ranges.get(layer.source.name or "")
        if known is None or known.extent.size != layer.inputs:
            return None
        found.append(Read(known.extent, layer.by_input(), places, layer.rounds_weight))
    return found


def _scale_ranges(group: ChannelGroup, ranges: dict[str, ChannelRange], factor: Array) -> None:
    """Divide the ranges of a group's values by its factors, in place.

    A value whose channels lie on other axes than the second has the bounds of the value that it was made of.
    """
    for value, places in group.values.items():
        node, known = value.producer(), ranges.get(value.name or "")
        if known is None:
            continue
        if places.size == 1 or places.size == places.shape[1]:
            ranges[value.name or ""] = known.scaled(1 / factor[places.reshape(-1)])
            continue
        source = node.inputs[0] if node is not None and node.op_type in LAYOUTS else None
        before = ranges.get(source.name or "") if source is not None else None
        if before is not None:
            low, high = before.bounds
            ranges[value.name or ""] = ChannelRange(np.array([low]), np.array([high]), known.mean.mean(keepdims=True))


def _spread(reads: Sequence[Read]) -> float:
    """Return the largest range over the smallest of the channels that one layer reads."""
    used = [each.ranges[each.ranges > 0] for each in reads]
    return max((float(each.max() / each.min()) for each in used if each.size), default=1.0)
