"""Seeded inputs on which a file is run with and without optimisations: the same at export and in the service."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from normfold.contract.manifest import TensorSpec

ROWS = 4
FREE_SIZE = 64
"""Size of a free axis besides the rows, where the card does not say one."""

_FLOATS = {"FP16": np.float16, "FP32": np.float32, "FP64": np.float64}


def make_check_inputs(
    specs: Sequence[TensorSpec], sample_shape: Sequence[int] | None = None
) -> dict[str, npt.NDArray[Any]] | None:
    """Return an array for each input: floats standard normal, UINT8 from 0 to 255, other numbers 0 or 1.

    Args:
        specs: the network's inputs.
        sample_shape: of one row of the one input, for its free sizes.

    Returns:
        None where an input holds text.
    """
    rng = np.random.default_rng(0)
    arrays: dict[str, npt.NDArray[Any]] = {}
    for spec in specs:
        sample = sample_shape if sample_shape is not None and len(specs) == 1 else spec.shape[1:]
        sizes = [ROWS if size == -1 else size for size in spec.shape[:1]]
        sizes += [FREE_SIZE if size == -1 else size for size in (sample if spec.shape else ())]
        if spec.datatype == "BYTES":
            return None
        if spec.datatype in _FLOATS:
            arrays[spec.name] = rng.standard_normal(sizes).astype(_FLOATS[spec.datatype])
        elif spec.datatype == "UINT8":
            arrays[spec.name] = rng.integers(0, 256, sizes, np.uint8)
        else:
            dtype = np.dtype(np.bool_ if spec.datatype == "BOOL" else spec.datatype.lower())
            arrays[spec.name] = rng.integers(0, 2, sizes).astype(dtype)
    return arrays
