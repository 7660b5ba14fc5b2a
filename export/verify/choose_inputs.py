"""Random inputs that a network runs with, and on which its outputs are not constant."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

import numpy as np

from normfold.export.arrays import Tensor
from normfold.export.errors import ModelFileError, ModelInputError
from normfold.export.graph.inference import infer_input_shapes
from normfold.export.graph.input_sizes import suggested_sizes
from normfold.export.graph.shapes import Sizes, sizes_of
from normfold.export.onnx_io.model_file import load_model
from normfold.export.verify.inputs import (
    BATCH_SIZE,
    FREE_SIZES,
    MAX_ELEMENTS,
    Distribution,
    input_shapes,
    random_inputs,
)
from normfold.export.verify.runner import Inputs, Outputs, ValueInfo
from normfold.export.verify.tolerance import EPSILONS

_SAME_SIZES = 2
"""Every second input has the same sizes, see `InputMaker.make`."""


MAX_SUGGESTED = 16
"""Sizes that are tried of those that a network's constants suggest."""


@dataclass(frozen=True)
class InputMaker:
    """Makes random inputs of sizes that the network runs with.

    Free axes get `free_size` in every second input. In the others they get larger sizes, different from each other by
    `step`, if these work too: what holds for one size alone is not equality. A free first axis gets `rows`.
    """

    infos: Sequence[ValueInfo]
    free_size: int
    step: int
    rows: int = BATCH_SIZE

    def make(self, seed: int, distribution: Distribution = Distribution.STANDARD) -> Inputs:
        """Make the input of one seed."""
        step = self.step * (seed % _SAME_SIZES)
        return random_inputs(self.infos, self.free_size, seed, step, distribution, self.rows)

    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Return the shapes of an input whose free axes get `free_size`."""
        return tuple(input_shapes(self.infos, self.free_size, 0, self.rows))


def find_sizes(infos: Sequence[ValueInfo], run: Callable[[Inputs], object], path: Path | None = None) -> InputMaker:
    """Return a maker with the smallest sizes that the network runs with.

    Args:
        infos: its inputs.
        run: runs it.
        path: of the network; where it does not run with the usual sizes, those are tried that its weights and other
            constants suggest.

    Raises:
        ModelFileError: it runs with none.
        ModelInputError: no inputs can be made.
    """
    tried = dict[tuple[tuple[int, ...], ...], ModelFileError]()
    for maker in _makers(infos, path):
        shapes = maker.shapes()
        if shapes in tried or (tried and max(map(prod, shapes), default=0) > MAX_ELEMENTS):
            continue
        try:
            run(maker.make(seed=0))
        except ModelFileError as error:
            tried[shapes] = error
        else:
            break
    else:
        first = next(iter(tried.values()))
        raise ModelFileError(first.path, f"{first.problem} (on random inputs; give some that suit it)")
    with_step = replace(maker, step=maker.free_size)
    try:
        run(with_step.make(seed=1))
    except (ModelFileError, ModelInputError):
        return maker
    return with_step


def _makers(infos: Sequence[ValueInfo], path: Path | None) -> Iterator[InputMaker]:
    """Yield makers to try: of the usual sizes, then of those that the network suggests."""
    yield from (InputMaker(infos, free_size, 0) for free_size in FREE_SIZES)
    if path is None:
        return
    model = load_model(path)
    infer_input_shapes(model)
    shapes = {value.name: sizes_of(value) for value in model.graph.inputs}
    known = [replace(info, shape=_narrowed(info.shape, shapes.get(info.name))) for info in infos]
    rows = (BATCH_SIZE, 1)
    yield from (InputMaker(known, free_size, 0, count) for count in rows for free_size in FREE_SIZES)
    suggested = suggested_sizes(model)[:MAX_SUGGESTED]
    yield from (InputMaker(known, free_size, 0, count) for count in rows for free_size in suggested)
    yield from (InputMaker(known, FREE_SIZES[0], 0, count) for count in suggested)


def _narrowed(stated: Sizes, found: Sizes | None) -> Sizes:
    """Return the sizes of an input, with the numbers that were found for its free axes after the first."""
    if found is None or len(found) != len(stated):
        return stated
    pairs = enumerate(zip(stated, found, strict=True))
    return tuple(other if axis and isinstance(other, int) else size for axis, (size, other) in pairs)


def find_constant(runs: Sequence[Outputs]) -> set[str]:
    """Return the outputs that are the same in all runs, within four roundings; none where no two are of one shape."""
    return {name for name in runs[0] if _is_constant([run[name] for run in runs])}


def find_distributions(maker: InputMaker, constant: set[str], run: Callable[[Inputs], Outputs]) -> list[Distribution]:
    """Return distributions of inputs on which outputs change that are constant on standard normal ones.

    Args:
        maker: of the inputs.
        constant: names of the outputs; those that change are removed.
        run: of the original.
    """
    found = []
    for distribution in list(Distribution)[1:]:
        if not constant:
            break
        try:
            runs = [run(maker.make(seed, distribution)) for seed in (0, _SAME_SIZES)]
        except ModelFileError:  # such as an index that is beyond the end of a table
            continue
        changing = constant - find_constant(runs)
        if changing:
            found.append(distribution)
            constant -= changing
    return found


def _is_constant(tensors: Sequence[Tensor]) -> bool:
    by_shape: dict[tuple[int, ...], list[Tensor]] = {}
    for tensor in tensors:
        by_shape.setdefault(tensor.shape, []).append(tensor)
    groups = [group for group in by_shape.values() if len(group) > 1 and group[0].size]
    return bool(groups) and all(_is_same(group[0], other) for group in groups for other in group[1:])


def _is_same(one: Tensor, other: Tensor) -> bool:
    epsilon = EPSILONS.get(one.dtype.name)
    if epsilon is None:
        return bool(np.array_equal(one, other))
    first, second = one.astype(np.float64), other.astype(np.float64)
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        return False
    return bool(np.abs(first - second).max() <= 4 * epsilon * np.abs(first).max())
