"""Random rows to compare two networks on, where there are no samples."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from normfold.export.quantize.proof.outputs import Run
from normfold.export.quantize.proof.rows import ProofRows
from normfold.export.verify.choose_inputs import find_sizes
from normfold.export.verify.inputs import random_inputs
from normfold.export.verify.runner import Inputs, ValueInfo

SEEDS = range(8)
"""Of the rows, three each where the network fixes no size."""


def random_rows(infos: list[ValueInfo], run: Run, ranges: Mapping[str, tuple[float, float]] | None = None) -> ProofRows:
    """Return random rows of sizes that the network runs with, cut to the ranges of its inputs.

    Args:
        infos: its inputs.
        run: runs it.
        ranges: the lowest and the highest value, by input.

    Raises:
        ModelFileError: it runs with no size.
        ModelInputError: no inputs can be made.
    """
    maker = find_sizes(infos, run)
    parts = [random_inputs(infos, maker.free_size, seed) for seed in SEEDS]
    if any(not info.shape for info in infos):
        return ProofRows(parts[0], origin="random")
    joined: Inputs = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return ProofRows({name: _cut(array, (ranges or {}).get(name)) for name, array in joined.items()}, origin="random")


def _cut(array: np.ndarray, limits: tuple[float, float] | None) -> np.ndarray:
    return array if limits is None or array.dtype.kind != "f" else np.clip(array, *limits).astype(array.dtype)
