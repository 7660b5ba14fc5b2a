"""Quantise a folded network to int8.

QuantizeLinear and DequantizeLinear nodes stand around every operator that ONNX Runtime runs in int8; activations are
unsigned, weights signed, with a scale for each channel.

    prepare -> ranges: recorded, from samples or from statistics -> equalise -> scales of weights -> correct biases
    -> place nodes
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx_ir as ir

from normfold.contract.progress import ProgressCallback, ignore_progress
from normfold.export.arrays import Tensor
from normfold.export.errors import QuantizeError
from normfold.export.onnx_io.model_file import save_model
from normfold.export.quantize.channel_statistics import ChannelStatistics
from normfold.export.quantize.int8.choose import chosen_nodes
from normfold.export.quantize.int8.layers import layers_in_bodies, layers_of, why_no_layers
from normfold.export.quantize.int8.place import place
from normfold.export.quantize.int8.prepare import prepare
from normfold.export.quantize.int8.ranges.channel_ranges import ChannelRange
from normfold.export.quantize.int8.ranges.from_samples import ranges_from_samples
from normfold.export.quantize.int8.ranges.from_statistics import ranges_from_statistics
from normfold.export.quantize.int8.ranges.masks import without_masks
from normfold.export.quantize.int8.ranges.run_values import float_values
from normfold.export.quantize.int8.ranges.vanishing_averages import without_vanishing_averages
from normfold.export.quantize.int8.result import Int8Options, Int8Result, RangeSource
from normfold.export.quantize.int8.saturation import saturation
from normfold.export.quantize.int8.unfolded import load_unfolded, own_statistics
from normfold.export.quantize.int8.value_names import constant_name
from normfold.export.quantize.int8.weights.bias_correction import correct_bias
from normfold.export.quantize.int8.weights.equalise import equalise
from normfold.export.quantize.int8.weights.weight_scales import weight_scales
from normfold.export.verify.runner import input_infos


def quantize_int8(
    folded: Path,
    target: Path,
    *,
    unfolded: Path | None = None,
    statistics: Mapping[str, ChannelStatistics] | None = None,
    samples: Mapping[str, Tensor] | None = None,
    recorded: Mapping[str, ChannelRange] | None = None,
    input_ranges: Mapping[str, tuple[float, float]] | None = None,
    options: Int8Options | None = None,
    progress: ProgressCallback = ignore_progress,
) -> Int8Result:
    """Quantise a folded network, and write the result.

    Args:
        folded: the folded network, float32.
        target: where the quantised one goes; to make it appear only when complete, give a path from
            `contract.atomic_write.atomic_path`.
        unfolded: the same network with its BatchNormalization nodes. Its own are read where `statistics` are not given.
        statistics: of the BatchNormalization nodes, by the label of the node (`channel_statistics.of_bundle`).
        samples: by input, rows first, as the folded network takes them; ranges then come from them alone.
        recorded: by value, ranges on data that were there before; they are taken where there are no samples.
        input_ranges: by input, least and greatest; an input without one is taken for standardised.
        options: how to quantise.
        progress: called with each step as it begins.

    Raises:
        ModelFileError: a file cannot be used.
        QuantizeError: there is nothing to quantise, or nothing to take ranges from; or the opset cannot be converted.
        SampleError: the samples are not what the network takes.
        OSError: the target cannot be written.
    """
    options = options or Int8Options()
    progress("quantising: reading the network")
    model = prepare(folded)
    if not any(layer.node.name not in options.keep for layer in layers_of(model.graph)):
        raise QuantizeError(f"{str(folded)!r} holds nothing to quantise: {why_no_layers(model.graph)}.")
    source = RangeSource.SAMPLES
    if samples is not None:
        progress("quantising: ranges from samples")
        ranges = ranges_from_samples(model, samples, input_infos(folded, model))
    elif recorded is not None:
        source = RangeSource.RECORDED
        ranges = _of_every_value(model, recorded, folded)
    else:
        source = RangeSource.STATISTICS
        progress("quantising: ranges from statistics")
        statistics = own_statistics(folded, unfolded) if statistics is None else statistics
        if not statistics:
            raise QuantizeError(
                f"Nothing says how large the values of {str(folded)!r} are: no BatchNormalization statistics are "
                "known; quantise the network before its fold, or a bundle, or take the ranges of `samples`."
            )
        ranges = ranges_from_statistics(model, load_unfolded(unfolded), statistics, input_ranges or {}, options)
    return _write(folded, model, ranges, target, source, options, progress)


def _of_every_value(model: ir.Model, recorded: Mapping[str, ChannelRange], folded: Path) -> dict[str, ChannelRange]:
    """Return recorded ranges, which must hold every value: one without a range would stay float32, and be slow.

    Raises:
        QuantizeError: they are not of this network, for example since another version of Normfold recorded them.
    """
    missing = next((value.name for value in float_values(model.graph) if value.name not in recorded), None)
    if missing is not None:
        raise QuantizeError(
            f"The ranges recorded with {str(folded)!r} lack the value {missing!r}; give `samples`, or `ranges` "
            "statistics."
        )
    return dict(recorded)


def _write(
    folded: Path,
    model: ir.Model,
    ranges: dict[str, ChannelRange],
    target: Path,
    source: RangeSource,
    options: Int8Options,
    progress: ProgressCallback,
) -> Int8Result:
    progress("quantising: weights")
    ranges, warnings = without_masks(model.graph, ranges)
    ranges = without_vanishing_averages(model.graph, ranges)
    if (inside := layers_in_bodies(model.graph)) > 0:
        verb = "is" if inside == 1 else "are"
        warnings.append(
            f"{inside} of the network's layers {verb} inside a body of control flow, where all stays in float32."
        )
    equalised = equalise(model, ranges) if options.equalise else ()
    bounds = {name: each.bounds for name, each in ranges.items()}
    nodes = set(chosen_nodes(model, ranges, options.keep))
    layers = [layer for layer in layers_of(model.graph) if layer.node.name in nodes]
    if not layers:
        reason = " ".join(warnings) or "each reads or gives a value that has no range."
        raise QuantizeError(f"No Conv, Gemm or MatMul of {str(folded)!r} can run in int8: {reason}")
    scales = {layer: weight_scales(layer) for layer in layers}
    corrected = [layer.label for layer in layers if options.correct_bias and correct_bias(layer, scales[layer], ranges)]
    progress("quantising: placing nodes")
    result = place(model, nodes, bounds, scales)
    sums = saturation(ir.to_proto(result))
    save_model(result, target)
    sources = [node.inputs[0] for node in result.graph if node.op_type == "QuantizeLinear"]
    used = {value.name for value in (*sources, *result.graph.outputs) if value is not None}
    return Int8Result(
        range_source=source,
        layers=tuple(layer.label for layer in layers),
        equalised=equalised,
        bias_corrected=tuple(corrected),
        saturation=sums,
        ranges={name: each for name, each in bounds.items() if name in used},
        constants=_quantised_constants(model, result),
        warnings=tuple(warnings),
    )


def _quantised_constants(model: ir.Model, result: ir.Model) -> dict[str, Tensor]:
    """Return the float32 numbers of the constants that became integers, by name.

    Args:
        model: before nodes were placed.
        result: with integer constants.
    """
    found = {}
    for node in result.graph:
        value = node.inputs[0] if node.op_type == "DequantizeLinear" else None
        if value is not None and value.is_initializer():
            name = constant_name(value.name or "")
            tensor = model.graph.initializers[name].const_value
            assert tensor is not None  # of an initializer
            found[name] = tensor.numpy()
    return found
