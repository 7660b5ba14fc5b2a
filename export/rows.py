"""Whether the rows of a batch are independent: only then may a server run the rows of different requests together."""

from __future__ import annotations

import numpy as np

from export.difference import OutputDifference, measure
from export.errors import ModelFileError
from export.runner import Feeds, Runner, Tensor


def rows_are_independent(
    runner: Runner, feeds: Feeds, together: dict[str, Tensor], outputs: dict[str, OutputDifference]
) -> bool:
    """Run each row alone, and compare with the rows run together.

    Args:
        runner: the model.
        feeds: of several rows, if its first axis is free.
        together: what the model gave for them.
        outputs: the allowance of each output.

    Returns:
        False also where the first axis is fixed, or not an axis of every input and output.
    """
    if any(isinstance(port.shape[0], int) if port.shape else True for port in (*runner.inputs, *runner.outputs)):
        return False
    rows = {len(array) for array in feeds.values()}
    if len(rows) != 1 or any(tensor.shape[:1] != (*rows,) for tensor in together.values()):
        return False
    (count,) = rows
    try:
        alone = [runner.run({name: array[row : row + 1] for name, array in feeds.items()}) for row in range(count)]
    except ModelFileError:
        return False
    for name, difference in outputs.items():
        joined = np.concatenate([result[name] for result in alone])
        distance = measure([together[name]], [joined], [together[name]]).error
        if not distance <= difference.allowed:
            return False
    return True
