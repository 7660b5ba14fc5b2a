"""Some of the elements along an axis: an affine of a value and the affine of the elements that are taken of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from normfold.export.arrays import Array
from normfold.export.fold.affine import Affine


def taken(affine: Affine, axis: int, indices: Sequence[int]) -> Affine:
    """Return the affine of the elements that are taken along an axis.

    Args:
        affine: of the whole value.
        axis: counted from the front.
        indices: of the elements, in order, not negative.
    """
    return affine.map(lambda array: array if array.shape[axis] == 1 else np.take(array, indices, axis))


def put_back(affine: Affine, axis: int, indices: Sequence[int], size: int) -> Affine | None:
    """Return the affine of a whole value, the elements that are not taken with gain 1 and offset 0.

    Args:
        affine: of the elements that are taken; it varies along the axis.
        axis: counted from the front.
        indices: of the elements, in order, not negative.
        size: of the whole value along the axis.

    Returns:
        The affine, or None if an element is taken twice and its copies have different affines.
    """
    whole = Affine(_put(affine.gain, axis, indices, size, 1.0), _put(affine.offset, axis, indices, size, 0.0))
    again = taken(whole, axis, indices)
    is_same = np.all(again.gain == affine.gain) and np.all(again.offset == affine.offset)
    return whole if is_same else None


def _put(array: Array, axis: int, indices: Sequence[int], size: int, filling: float) -> Array:
    shape = list(array.shape)
    shape[axis] = len(indices)
    parts = np.broadcast_to(array, shape)
    shape[axis] = size
    result = np.full(shape, filling)
    np.moveaxis(result, axis, 0)[list(indices)] = np.moveaxis(parts, axis, 0)
    return result
