"""Ranges of a network's values from samples: least and greatest of what they take (MinMax)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from normfold.export.arrays import Tensor, is_float
from normfold.export.errors import SampleError
from normfold.export.quantize.int8.ranges.channel_ranges import ChannelRange, RangeMeter
from normfold.export.quantize.int8.ranges.masks import is_finite, is_infinite_by_a_constant
from normfold.export.quantize.int8.ranges.run_values import ValueRunner, float_values, run_errors_as_quantize_errors
from normfold.export.verify.runner import ValueInfo

CHUNK_BYTES = 2**26
"""Of the values that are looked at together."""
MAX_CHUNK_ROWS = 256


def ranges_from_samples(
    model: ir.Model, samples: Mapping[str, Tensor], infos: Sequence[ValueInfo]
) -> dict[str, ChannelRange]:
    """Return the range of every float32 value, inputs among them; that of a mask may be infinite.

    Args:
        model: prepared, float32.
        samples: by input, rows first.
        infos: of the inputs.

    Raises:
        SampleError: the samples are not what the network takes, or they give values that are not finite.
        QuantizeError: the network cannot be run on them.
    """
    check_samples(samples, infos)
    names = [value.name or "" for value in float_values(model.graph)]
    with run_errors_as_quantize_errors():
        runner = ValueRunner(model, names)
    meters = {name: RangeMeter() for name in (*samples, *names)}
    rows = len(next(iter(samples.values())))
    fixed = next((info.shape[0] for info in infos if isinstance(info.shape[0], int)), None)
    start, size = 0, fixed or 1
    while start + (fixed or 1) <= rows:
        part = {name: array[start : start + size] for name, array in samples.items()}
        seen = 0
        with run_errors_as_quantize_errors():
            values = dict(runner.run(part))
        for name, array in (*part.items(), *values.items()):
            seen += array.nbytes
            if is_float(array):
                meters[name].add(array)
        start += size
        size = fixed or max(1, min(MAX_CHUNK_ROWS, CHUNK_BYTES * size // max(seen, 1)))
    found = {name: meter.range() for name, meter in meters.items() if meter.is_used}
    _check_finite(model.graph, found)
    return found


def _check_finite(graph: ir.Graph, found: Mapping[str, ChannelRange]) -> None:
    """Check that the outputs of a network are finite, but for those that are not by a constant, such as of a mask.

    A value inside may be infinite, or no number, where another operator replaces it: it stays in float32.

    Raises:
        SampleError: one is not; it names the first such value on the way.
    """

    def is_fault(value: ir.Value) -> bool:
        known = found.get(value.name or "")
        return known is not None and not is_finite(known) and not is_infinite_by_a_constant(value)

    if any(is_fault(value) for value in graph.outputs):
        first = next(value for value in float_values(graph) if is_fault(value))
        raise SampleError(f"The samples give the value {first.name!r} numbers that are not finite.")


def check_samples(samples: Mapping[str, Tensor], infos: Sequence[ValueInfo]) -> None:
    """Check names, dtypes, shapes and numbers of rows.

    Raises:
        SampleError: they are not what the network takes.
    """
    names = [info.name for info in infos]
    if samples.keys() != set(names):
        raise SampleError(f"The samples are of {sorted(samples)}; the network's inputs are {names}.")
    for info in infos:
        array = samples[info.name]
        if array.dtype != info.dtype.numpy():
            raise SampleError(
                f"The samples of {info.name!r} are {array.dtype}, the network takes {info.dtype.numpy()}."
            )
        sample = ValueInfo(info.name, info.dtype, info.shape[1:])
        if not info.shape or not array.ndim or not sample.fits(array.shape[1:]):
            raise SampleError(
                f"The samples of {info.name!r} have shape {list(array.shape)}, the input {list(info.shape)}."
            )
        if is_float(array) and not np.isfinite(array).all():
            raise SampleError(f"The samples of {info.name!r} hold NaN or infinity.")
    counts = {name: len(array) for name, array in samples.items()}
    least = max((info.shape[0] for info in infos if isinstance(info.shape[0], int)), default=1)
    if len(set(counts.values())) != 1 or min(counts.values()) < least:
        raise SampleError(f"The samples hold {counts} rows: {least} at least are needed, as many of each input.")
