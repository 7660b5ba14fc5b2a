"""Inputs that a network runs on, in batches whose activations fit into memory at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir

from normfold.export.arrays import Tensor, is_float
from normfold.export.errors import ModelInputError
from normfold.export.quantize.float16.plan import Plan
from normfold.export.verify.choose_inputs import find_sizes
from normfold.export.verify.runner import Inputs, Runner, ValueInfo

_MAX_ELEMENTS = 60_000_000
"""Elements of all activations of a batch; each is held twice, in 4 bytes."""
_SEEDS = (0, 1)


def input_batches(path: Path, plan: Plan, inputs: Mapping[str, Tensor] | None) -> list[Inputs]:
    """Return the inputs in batches; two random ones of different sizes where none are given.

    Args:
        path: of the network.
        plan: of its graph.
        inputs: one array for each input.

    Raises:
        ModelInputError: the inputs do not fit the network, or none can be made.
        ModelFileError: the network does not run.
    """
    runner = Runner(path)
    if inputs is None:
        maker = find_sizes(runner.inputs, runner.run)
        given: list[Inputs] = [maker.make(seed) for seed in _SEEDS]
    else:
        _check(runner.inputs, inputs)
        given = [inputs]
    elements = _elements_per_row(plan)
    return [batch for each in given for batch in _split(runner.inputs, each, elements)]


def input_magnitudes(batches: Sequence[Inputs]) -> dict[str, float]:
    """Return the largest finite absolute value of each float input."""
    found: dict[str, float] = {}
    for batch in batches:
        for name, array in batch.items():
            if is_float(array):
                reached = float(np.max(np.abs(array), initial=0.0, where=np.isfinite(array)))
                found[name] = max(found.get(name, 0.0), reached)
    return found


def _check(infos: Sequence[ValueInfo], inputs: Mapping[str, Tensor]) -> None:
    wanted = [info.name for info in infos]
    if set(inputs) != set(wanted):
        raise ModelInputError(f"The inputs hold the arrays {sorted(inputs)}; the network's inputs are {wanted}.")
    for info in infos:
        array = inputs[info.name]
        if array.dtype != info.dtype.numpy():
            raise ModelInputError(
                f"The array {info.name!r} is {array.dtype}, the network's input {info.dtype.numpy()}."
            )
        if not array.size:
            raise ModelInputError(f"The array {info.name!r} is empty.")
        if not info.fits(array.shape):
            raise ModelInputError(
                f"The array {info.name!r} has shape {list(array.shape)}, the input {list(info.shape)}."
            )


def _split(infos: Sequence[ValueInfo], inputs: Mapping[str, Tensor], elements_per_row: int) -> Iterator[Inputs]:
    lengths = {len(array) if array.ndim else 0 for array in inputs.values()}
    is_free = all(info.shape and not isinstance(info.shape[0], int) for info in infos)
    if len(lengths) != 1 or not is_free:
        yield dict(inputs)
        return
    (count,) = lengths
    rows = max(_MAX_ELEMENTS // max(elements_per_row, 1), 1)
    for start in range(0, count, rows):
        yield {name: array[start : start + rows] for name, array in inputs.items()}


def _elements_per_row(plan: Plan) -> int:
    """Return about how many numbers the values of the graph hold for one row; a free size counts as 64."""
    return sum(_elements(value) for value in plan.values() if value.producer() is not None)


def _elements(value: ir.Value) -> int:
    if value.shape is None:
        return 1_000_000
    return int(np.prod([size if isinstance(size, int) else 64 for size in tuple(value.shape)[1:]], dtype=np.int64))
