"""Random inputs that a network runs with, and on which its outputs are not constant."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from normfold.export.arrays import Tensor
from normfold.export.errors import ModelFileError
from normfold.export.verify.inputs import FREE_SIZES, Distribution, random_inputs
from normfold.export.verify.runner import Inputs, Outputs, ValueInfo
from normfold.export.verify.tolerance import EPSILONS

_SAME_SIZES = 2
"""Every second input has the same sizes, see `InputMaker.make`."""


@dataclass(frozen=True)
class InputMaker:
    """Makes random inputs of sizes that the network runs with.

    Free axes get `free_size` in every second input. In the others they get larger sizes, different from each other by
    `step`, if these work too: what holds for one size alone is not equality.
    """

    infos: Sequence[ValueInfo]
    free_size: int
    step: int

    def make(self, seed: int, distribution: Distribution = Distribution.STANDARD) -> Inputs:
        """Make the input of one seed."""
        return random_inputs(self.infos, self.free_size, seed, self.step * (seed % _SAME_SIZES), distribution)


def find_sizes(infos: Sequence[ValueInfo], run: Callable[[Inputs], object]) -> InputMaker:
    """Return a maker with the smallest sizes that the network runs with.

    Raises:
        ModelFileError: it runs with none.
        ModelInputError: no inputs can be made.
    """
    for free_size in FREE_SIZES:
        try:
            run(random_inputs(infos, free_size, seed=0))
        except ModelFileError as error:
            if free_size == FREE_SIZES[-1]:
                text = f"{error.problem} (on random inputs; give some that suit it)"
                raise ModelFileError(error.path, text) from None
        else:
            break
    step = free_size
    try:
        run(random_inputs(infos, free_size, seed=0, step=step))
    except ModelFileError:
        step = 0
    return InputMaker(infos, free_size, step)


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
