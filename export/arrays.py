"""Types of arrays, and the one function on them that every part of the fold needs."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
"""What a fold computes with."""

Tensor = npt.NDArray[Any]
"""What a model takes or gives, of any dtype."""


def constant_axes_dropped(array: Array) -> Array:
    """Return the array with size 1 on every axis along which it is constant."""
    for axis, size in enumerate(array.shape):
        first = np.take(array, [0], axis) if size > 1 else array
        if size > 1 and np.all(array == first):
            array = first
    return array
