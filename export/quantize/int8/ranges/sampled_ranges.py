"""Run a network from values with known statistics on, on rows drawn for them."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from normfold.export.arrays import Tensor, is_float
from normfold.export.errors import QuantizeError
from normfold.export.onnx_io.runtime_check import in_one_line
from normfold.export.quantize.channel_statistics import ChannelStatistics
from normfold.export.quantize.int8.ranges.channel_ranges import ChannelRange, RangeMeter
from normfold.export.quantize.int8.ranges.cut import cut
from normfold.export.quantize.int8.ranges.run_values import ValueRunner, run_errors_as_quantize_errors
from normfold.export.quantize.int8.ranges.sampling import Carrier, RowPlan, plan_rows
from normfold.export.quantize.int8.result import Int8Options
from normfold.export.verify.inputs import FREE_SIZES, random_inputs
from normfold.export.verify.runner import Inputs, ValueInfo

SUMMING = frozenset(
    {
        *("Add", "Sub", "Sum", "Conv", "ConvTranspose", "Gemm", "MatMul"),
        *("AveragePool", "GlobalAveragePool", "ReduceMean", "ReduceSum"),
    }
)
"""Operators that sum numbers: the more, the less a few rows show how far the sum may reach."""

DRAWN_BYTES = 2**27
"""Of all rows of all carriers, about."""
CHUNK_BYTES = 2**25
MIN_ROWS, MAX_ROWS, MAX_CHUNK_ROWS = 16, 256, 64


def sampled_ranges(
    model: ir.Model,
    carriers: Mapping[str, ChannelStatistics],
    wanted: Collection[str],
    input_ranges: Mapping[str, tuple[float, float]],
    options: Int8Options,
) -> dict[str, ChannelRange]:
    """Return the ranges of the values that are wanted and computed behind the carriers, and of the inputs.

    Args:
        model: its shapes inferred; is cut at the carriers.
        carriers: values with statistics, by name.
        wanted: names of values.
        input_ranges: by input, least and greatest; an input without one is taken for standardised.
        options: how many standard deviations, and the seed.

    Raises:
        QuantizeError: the network cannot be run on random inputs.
    """
    infos = [_info(value) for value in model.graph.inputs if not value.is_initializer()]
    first = _first_inputs(model, infos, list(carriers) or list(wanted)[:1])
    fixed = next((info.shape[0] for info in infos if info.shape and isinstance(info.shape[0], int)), None)
    rows = fixed if isinstance(fixed, int) else 1
    shapes = {name: _of_one_row(array.shape, rows) for name, array in first.items()}
    usable = {name: each for name, each in carriers.items() if name in shapes and _fits(each, shapes[name])}
    outputs = cut(model, usable, wanted)
    producers = {value.name or "": value.producer() for value in outputs}
    names = [value.name or "" for value in model.graph.inputs if not value.is_initializer()]
    row_bytes = sum(4 * math.prod(shapes[name]) for name in names)
    plan = plan_rows(min(MAX_ROWS, max(MIN_ROWS, DRAWN_BYTES // max(row_bytes, 1))))
    source = _Source(usable, plan, shapes, {info.name: info for info in infos}, input_ranges, options)
    chunk = rows if fixed else max(1, min(MAX_CHUNK_ROWS, CHUNK_BYTES // max(row_bytes, 1)))
    with run_errors_as_quantize_errors():
        runner = ValueRunner(model, [*producers])
    meters = {name: RangeMeter() for name in producers}
    for start in range(0, plan.total, chunk) if producers else ():
        inputs = {name: source.rows(name, start, start + chunk) for name in names}
        with run_errors_as_quantize_errors():
            values = dict(runner.run(inputs))
        for name, array in values.items():
            near = max(plan.near - start, 0) * (len(array) // chunk if array.ndim else 0)
            meters[name].add(array, near)
    found = {name: _widened(meter, producers[name], options.sigmas) for name, meter in meters.items() if meter.is_used}
    return found | {info.name: source.input_range(info) for info in infos if info.dtype == ir.DataType.FLOAT}


class _Source:
    """Draws the rows of carriers and of inputs."""

    def __init__(
        self,
        carriers: Mapping[str, ChannelStatistics],
        plan: RowPlan,
        shapes: Mapping[str, tuple[int, ...]],
        infos: Mapping[str, ValueInfo],
        input_ranges: Mapping[str, tuple[float, float]],
        options: Int8Options,
    ) -> None:
        self._carriers = {
            name: Carrier(each, plan, turn, options.sigmas, options.seed)
            for turn, (name, each) in enumerate(carriers.items())
        }
        self._plan, self._shapes, self._infos = plan, shapes, infos
        self._input_ranges, self._options = input_ranges, options

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """Return some rows of a value."""
        shape = self._shapes[name]
        if name in self._carriers:
            return self._carriers[name].rows(start, stop, shape)
        info, rows = self._infos[name], stop - start
        rng = np.random.default_rng([self._options.seed, start])
        whole = ValueInfo(name, info.dtype, (rows * shape[0], *shape[1:]) if shape else ())
        drawn = random_inputs([whole], 1, int(rng.integers(2**31)))[name]
        if not is_float(drawn):
            return drawn
        if drawn.ndim > 2:
            by_position = drawn.reshape(*drawn.shape[:2], -1)
            constant = (np.arange(start, stop) >= self._plan.independent).repeat(shape[0]).reshape(-1, 1, 1)
            drawn = np.where(constant, by_position[..., :1], by_position).reshape(drawn.shape).astype(drawn.dtype)
        low, high = self._bounds(name)
        if low < 0 < high:
            return np.clip(drawn, low, high).astype(drawn.dtype)
        return (low + (high - low) * (0.5 + np.clip(drawn, -2, 2) / 4)).astype(drawn.dtype)

    def input_range(self, info: ValueInfo) -> ChannelRange:
        """Return the range of an input; its mean is 0 if it may be."""
        low, high = self._bounds(info.name)
        mean = 0.0 if low < 0 < high else (low + high) / 2
        return ChannelRange(*(np.array([each]) for each in (low, high, mean)))

    def _bounds(self, name: str) -> tuple[float, float]:
        return self._input_ranges.get(name, (-self._options.sigmas, self._options.sigmas))


def _widened(meter: RangeMeter, producer: ir.Node | None, sigmas: float) -> ChannelRange:
    """Return what was seen, and behind an operator that sums, `sigmas` standard deviations about the mean too.

    Where nothing below 0 was seen, or nothing above, nothing is expected there.
    """
    seen = meter.range()
    if producer is None or producer.op_type not in SUMMING or not np.isfinite(seen.bounds).all():
        return seen
    reach = sigmas * meter.std()
    low, high = np.minimum(seen.low, seen.mean - reach), np.maximum(seen.high, seen.mean + reach)
    return ChannelRange(
        np.where(seen.low >= 0, np.maximum(low, 0), low), np.where(seen.high <= 0, np.minimum(high, 0), high), seen.mean
    )


def _first_inputs(model: ir.Model, infos: Sequence[ValueInfo], names: Sequence[str]) -> Inputs:
    """Return inputs, and some values for them: of one row, or of as many as the network's own batch has."""
    problem = ""
    try:
        runner = ValueRunner(model, names)
    except Exception as error:  # noqa: BLE001 -- ONNX Runtime raises many kinds
        raise QuantizeError(f"The network cannot be run: {in_one_line(error)}") from None
    for free_size in FREE_SIZES:
        drawn = random_inputs(infos, free_size, seed=0)
        free = {info.name for info in infos if info.shape and not isinstance(info.shape[0], int)}
        inputs = {name: array[:1] if name in free else array for name, array in drawn.items()}
        try:
            return {**inputs, **dict(runner.run(inputs))}
        except Exception as error:  # noqa: BLE001 -- as above
            problem = problem or in_one_line(error)
    raise QuantizeError(f"The network cannot be run on random inputs, as ranges from statistics must be: {problem}")


def _info(value: ir.Value) -> ValueInfo:
    sizes = tuple(size if isinstance(size, int) and size >= 0 else None for size in value.shape or ())
    assert value.dtype is not None  # an input has a type
    return ValueInfo(value.name or "", value.dtype, sizes)


def _of_one_row(shape: tuple[int, ...], rows: int) -> tuple[int, ...]:
    return (max(1, shape[0] // rows), *shape[1:]) if shape else shape


def _fits(statistics: ChannelStatistics, shape: Sequence[int]) -> bool:
    return len(shape) > 1 and shape[1] == statistics.mean.size
