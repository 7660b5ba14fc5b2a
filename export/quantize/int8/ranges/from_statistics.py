"""Ranges of a network's values from the statistics of its BatchNormalization nodes, without data.

A value that holds what one gave out ranges over `sigmas` standard deviations on either side of the mean, in each
channel. For the others the network is run from the nearest such values on, on rows drawn for these (`sampling`): no
rule for each operator is needed, but where an operator sums many numbers, what a few rows show falls short, and the
range holds `sigmas` standard deviations of what they give too.

Source: Nagel et al. 2019, arXiv:1906.04721, section 4.2, where 6 standard deviations are taken: last layers have
heavier tails.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import onnx_ir as ir

from normfold.export.arrays import Array
from normfold.export.graph.shapes import static_sizes
from normfold.export.quantize.channel_statistics import ChannelStatistics, batchnorms
from normfold.export.quantize.int8.choose import clipping_limits
from normfold.export.quantize.int8.ranges.channel_ranges import ChannelRange
from normfold.export.quantize.int8.ranges.masks import without_masks
from normfold.export.quantize.int8.ranges.run_values import float_values
from normfold.export.quantize.int8.ranges.sampled_ranges import sampled_ranges
from normfold.export.quantize.int8.result import Int8Options

_LAYOUTS = frozenset({"Flatten", "Reshape", "Squeeze", "Unsqueeze", "Identity"})
"""Operators that give the numbers that they take."""

_WITHIN = frozenset({*_LAYOUTS, "Transpose", "Slice", "Gather", "Split", "MaxPool", "AveragePool", "Resize"})
"""Operators whose output has the scale of the first input in int8: it lies within that one's range, or 0."""


def ranges_from_statistics(
    model: ir.Model,
    unfolded: ir.Model | None,
    statistics: Mapping[str, ChannelStatistics],
    input_ranges: Mapping[str, tuple[float, float]],
    options: Int8Options,
) -> dict[str, ChannelRange]:
    """Return the range of every float32 value of a folded network, inputs among them.

    Args:
        model: the folded network, prepared; is left as it is.
        unfolded: the same network with its BatchNormalization nodes, shapes inferred; is changed. Without it, values of
            branches that were merged are drawn behind what comes before them.
        statistics: by the label of the BatchNormalization.
        input_ranges: by input, least and greatest; an input without one is taken for standardised.
        options: how many standard deviations and rows, and the seed.
    """
    names = {value.name or "" for value in float_values(model.graph)}
    known = {each.folded_value or "": each for each in statistics.values() if each.folded_value in names}
    found = {name: _around(each.mean, each.std, options.sigmas) for name, each in known.items()}
    if unfolded is not None:
        nodes = batchnorms(unfolded)
        norms = {nodes[label].outputs[0].name or "": each for label, each in statistics.items() if label in nodes}
        read = {nodes[label].inputs[0]: each for label, each in statistics.items() if label in nodes}
        of_inputs = _of_inputs(read, options.sigmas)
        sampled = _sampled(unfolded, norms, names - found.keys(), input_ranges, options)
        bounded = {name: _on_one_side(each, sampled.get(name)) for name, each in of_inputs.items()}
        found = sampled | bounded | found
    found |= _of_layouts(model.graph, found)
    missing = names - found.keys()
    inputs = {value.name or "" for value in model.graph.inputs if value.dtype == ir.DataType.FLOAT}
    if missing or inputs - found.keys():
        usual, _ = without_masks(model.graph, found)
        drawn = {name: _as_statistics(each, options.sigmas) for name, each in usual.items() if name in names}
        found = _sampled(model.clone(), drawn, missing, input_ranges, options) | found
    found = {name: each for name, each in found.items() if name in names | inputs}
    return _within_sources(model.graph, found)


def _within_sources(graph: ir.Graph, found: Mapping[str, ChannelRange]) -> dict[str, ChannelRange]:
    """Return ranges where no value that an operator takes out of another, or averages, exceeds this one's range."""
    within = dict(found)
    for node in graph:
        source = within.get(node.inputs[0].name or "") if node.op_type in _WITHIN and node.inputs[0] else None
        for value in node.outputs if source is not None and node.domain == "" else ():
            if (known := within.get(value.name or "")) is not None and source is not None:
                limits = min(source.bounds[0], 0.0), max(source.bounds[1], 0.0)
                within[value.name or ""] = _clipped(known, limits, known)
    return within


def _on_one_side(known: ChannelRange, sampled: ChannelRange | None) -> ChannelRange:
    """Return a range without what is below the least of a sample, or above the greatest, where that is 0."""
    if sampled is None:
        return known
    low, high = (np.broadcast_to(each, known.low.shape) for each in (sampled.low, sampled.high))
    return ChannelRange(
        np.where(low >= 0, np.maximum(known.low, 0), known.low),
        np.where(high <= 0, np.minimum(known.high, 0), known.high),
        known.mean,
    )


def _of_inputs(read: Mapping[ir.Value | None, ChannelStatistics], sigmas: float) -> dict[str, ChannelRange]:
    """Return the ranges of the values that BatchNormalization nodes took, and of the parts that these are joined of."""
    found: dict[str, ChannelRange] = {}
    for value, each in read.items():
        if value is None or value.name is None or each.input_mean is None or each.input_std is None:
            continue
        found[value.name] = _around(each.input_mean, each.input_std, sigmas)
    for value in read:
        node = None if value is None else value.producer()
        if node is not None and node.op_type == "Concat" and node.attributes.get_int("axis", 0) == 1:
            found = _of_parts(node, found) | found
    return found


def _of_parts(node: ir.Node, found: Mapping[str, ChannelRange]) -> dict[str, ChannelRange]:
    """Return the ranges of the inputs of a Concat of channels, where that of its output is known."""
    whole = found.get(node.outputs[0].name or "")
    sizes = static_sizes(list(node.inputs), 1)
    if whole is None or sizes is None or sum(sizes) != whole.low.size:
        return {}
    ends = np.cumsum(sizes)
    parts = [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]
    return {
        value.name or "": ChannelRange(whole.low[part], whole.high[part], whole.mean[part])
        for value, part in zip(node.inputs, parts, strict=True)
        if value is not None
    }


def _of_layouts(graph: ir.Graph, found: Mapping[str, ChannelRange]) -> dict[str, ChannelRange]:
    """Return the ranges of values that hold the numbers of another, in another shape."""
    same: dict[str, ChannelRange] = {}
    for node in graph:
        if node.op_type not in _LAYOUTS or node.inputs[0] is None:
            continue
        source, result = node.inputs[0].name or "", node.outputs[0].name or ""
        for known, other in ((source, result), (result, source)):
            if known in found and other not in found:
                same[other] = found[known]
    return same


def _as_statistics(known: ChannelRange, sigmas: float) -> ChannelStatistics:
    """Return statistics of a value that a range is known of, to draw rows of it."""
    return ChannelStatistics(known.mean, (known.high - known.low) / (2 * sigmas))


def _around(mean: Array, std: Array, sigmas: float) -> ChannelRange:
    return ChannelRange(mean - sigmas * std, mean + sigmas * std, mean)


def _sampled(
    model: ir.Model,
    carriers: Mapping[str, ChannelStatistics],
    wanted: Collection[str],
    input_ranges: Mapping[str, tuple[float, float]],
    options: Int8Options,
) -> dict[str, ChannelRange]:
    """Return the ranges of carriers, of the values that are wanted, and of the inputs; the model is cut."""
    known = {name: _around(each.mean, each.std, options.sigmas) for name, each in carriers.items()}
    clipping = {node.outputs[0].name or "": node for node in model.graph if node.op_type in ("Relu", "Clip")}
    sources = {name: clipping[name].inputs[0] for name in wanted if name in clipping}
    names = set(wanted) | {value.name or "" for value in sources.values() if value is not None}
    limits = {name: clipping_limits(clipping[name]) for name in sources}
    sources_of = {name: value.name or "" for name, value in sources.items() if value is not None}
    found = sampled_ranges(model, carriers, names, input_ranges, options) | known
    for name, source in sources_of.items():
        if source in found and name in found:
            found[name] = _clipped(found[source], limits[name], found[name])
    return found


def _clipped(source: ChannelRange, limits: tuple[float, float], seen: ChannelRange) -> ChannelRange:
    return ChannelRange(np.clip(source.low, *limits), np.clip(source.high, *limits), seen.mean)
