"""Types of arrays, and functions on them that several packages need."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
"""What a fold computes with."""

Tensor = npt.NDArray[Any]
"""What a model takes or gives, of any dtype."""


def is_float(tensor: Tensor) -> bool:
    """Return whether a tensor holds floats, bfloat16 included, which NumPy itself does not know."""
    return tensor.dtype.kind == "f" or tensor.dtype.name == "bfloat16"


def constant_axes_dropped(array: Array) -> Array:
    """Return the array with size 1 on every axis along which it is constant."""
    for axis, size in enumerate(array.shape):
        if size > 1:
            first = array[(slice(None),) * axis + (slice(0, 1),)]
            if (array == first).all():
                array = first
    return array
