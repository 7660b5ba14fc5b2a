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

from normfold.export.graph.constants import constant_tensor
from normfold.export.quantize.channel_statistics import ChannelStatistics, batchnorm_outputs
from normfold.export.quantize.int8.channel_ranges import ChannelRange
from normfold.export.quantize.int8.result import Int8Options
from normfold.export.quantize.int8.run_values import float_values
from normfold.export.quantize.int8.sampled_ranges import sampled_ranges


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
    carriers = {each.folded_value: each for each in statistics.values() if each.folded_value in names}
    found = {name: _around(each, options.sigmas) for name, each in carriers.items() if name is not None}
    if unfolded is not None:
        outputs = {label: value.name or "" for label, value in batchnorm_outputs(unfolded).items()}
        norms = {outputs[label]: each for label, each in statistics.items() if label in outputs}
        found = _sampled(unfolded, norms, names - found.keys(), input_ranges, options) | found
    missing = names - found.keys()
    inputs = {value.name or "" for value in model.graph.inputs if value.dtype == ir.DataType.FLOAT}
    if missing or inputs - found.keys():
        known = {name: each for name, each in carriers.items() if name is not None}
        found = _sampled(model.clone(), known, missing, input_ranges, options) | found
    return {name: each for name, each in found.items() if name in names | inputs}


def _around(statistics: ChannelStatistics, sigmas: float) -> ChannelRange:
    reach = sigmas * statistics.std
    return ChannelRange(statistics.mean - reach, statistics.mean + reach, statistics.mean)


def _sampled(
    model: ir.Model,
    carriers: Mapping[str, ChannelStatistics],
    wanted: Collection[str],
    input_ranges: Mapping[str, tuple[float, float]],
    options: Int8Options,
) -> dict[str, ChannelRange]:
    """Return the ranges of carriers, of the values that are wanted, and of the inputs; the model is cut."""
    known = {name: _around(each, options.sigmas) for name, each in carriers.items()}
    clipping = {node.outputs[0].name or "": node for node in model.graph if node.op_type in ("Relu", "Clip")}
    sources = {name: clipping[name].inputs[0] for name in wanted if name in clipping}
    names = set(wanted) | {value.name or "" for value in sources.values() if value is not None}
    limits = {name: _limits(clipping[name]) for name in sources}
    sources_of = {name: value.name or "" for name, value in sources.items() if value is not None}
    found = sampled_ranges(model, carriers, names, input_ranges, options) | known
    for name, source in sources_of.items():
        if source in found and name in found:
            found[name] = _clipped(found[source], limits[name], found[name])
    return found


def _limits(node: ir.Node) -> tuple[float, float]:
    """Return what a Relu or Clip clips to."""
    if node.op_type == "Relu":
        return 0.0, np.inf
    bounds = [constant_tensor(value) for value in (*node.inputs[1:], None, None)][:2]
    low, high = (None if tensor is None else float(tensor.numpy().reshape(-1)[0]) for tensor in bounds)
    return -np.inf if low is None else low, np.inf if high is None else high


def _clipped(source: ChannelRange, limits: tuple[float, float], seen: ChannelRange) -> ChannelRange:
    return ChannelRange(np.clip(source.low, *limits), np.clip(source.high, *limits), seen.mean)
