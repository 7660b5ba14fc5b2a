"""A check that the rows of a batch are independent: only then may a server batch rows of different requests."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from normfold.export.arrays import Tensor
from normfold.export.errors import ModelFileError
from normfold.export.verify.inputs import perturbed_by_one_ulp
from normfold.export.verify.measure import measure
from normfold.export.verify.perturbed_runs import PERTURBATIONS
from normfold.export.verify.runner import Inputs, Runner


def rows_are_independent(
    runner: Runner, inputs: Inputs, together: dict[str, Tensor], perturbed: Sequence[Sequence[dict[str, Tensor]]]
) -> bool:
    """Run each row alone, and compare with the rows run together.

    Args:
        runner: the model.
        inputs: of several rows, if its first axis is free.
        together: what the model gave for them.
        perturbed: what it gave for them perturbed by one ulp, in groups of perturbations: its noise.

    Returns:
        False also where the first axis is fixed, or not an axis of every input and output. A single row is joined by
        its own values in reverse.
    """
    if any(isinstance(info.shape[0], int) if info.shape else True for info in (*runner.inputs, *runner.outputs)):
        return False
    rows = {len(array) for array in inputs.values()}
    if len(rows) != 1 or any(tensor.shape[:1] != (*rows,) for tensor in together.values()):
        return False
    (count,) = rows
    try:
        if count == 1:
            inputs = {name: np.concatenate([array, np.flip(array)]) for name, array in inputs.items()}
            count, together = 2, runner.run(inputs)
            perturbed = [[runner.run(perturbed_by_one_ulp(inputs, seed)) for seed in range(PERTURBATIONS)]]
        alone = [runner.run({name: array[row : row + 1] for name, array in inputs.items()}) for row in range(count)]
    except ModelFileError:
        return False
    for name, tensor in together.items():
        joined = np.concatenate([result[name] for result in alone])
        noises = [[[run[name] for run in group] for group in perturbed]]
        if not measure([tensor], [joined], noises, by_channel=False).passes:
            return False
    return True
