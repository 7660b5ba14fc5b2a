"""Inputs on which sessions are timed and compared: made up, in the shapes of the manifest."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from normfold.contract.manifest import Manifest
from normfold.contract.precision.check_inputs import make_check_inputs
from normfold.service.codec.json_tensors import Array

MAX_ROWS = 8
"""A batch in which most networks already run more rows a second than alone; on an H100 four times as many."""


def make_inputs(manifest: Manifest) -> dict[str, Array] | None:
    """Return an array for each input, with random rows; None if an input holds text or has an unknown size."""
    preprocessing = manifest.card.preprocessing
    sample = None if preprocessing is None or len(manifest.inputs) > 1 else preprocessing.sample_shape
    if any(-1 in (sample or spec.shape[1:]) for spec in manifest.inputs):
        return None
    return make_check_inputs(manifest.inputs, sample)


def resize_rows(inputs: Mapping[str, Array], manifest: Manifest, rows: int) -> dict[str, Array]:
    """Return inputs with so many rows, where the number of rows is free; they are repeated as needed."""
    free = {spec.name for spec in manifest.inputs if spec.shape[:1] == (-1,)}
    return {
        name: np.resize(array, (rows, *array.shape[1:])) if name in free else array for name, array in inputs.items()
    }


def timed_rows(max_batch_size: int) -> tuple[int, ...]:
    """Return the numbers of rows to time: one, and as many as a batch may have, up to MAX_ROWS."""
    return (1,) if max_batch_size <= 1 else (1, min(max_batch_size, MAX_ROWS))
