"""The affine y = gain * x + offset, held as arrays that broadcast against the value it acts on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from normfold.export.arrays import Array, constant_axes_dropped
from normfold.export.graph.shapes import sizes_of


@dataclass(frozen=True, eq=False)
class Affine:
    """y = gain * x + offset, in float64.

    Both arrays have the rank of the value, with size 1 on every axis along which they are constant: however they are
    given, they are held so. A per-channel affine of an image batch has shape (1, C, 1, 1). Reshape and Transpose can
    then act on the affine as they act on the value, and "per channel" is a test (`along`) made only where the affine is
    absorbed.
    """

    gain: Array
    offset: Array

    def __post_init__(self) -> None:
        """Drop axes along which an array is constant."""
        object.__setattr__(self, "gain", constant_axes_dropped(self.gain))
        object.__setattr__(self, "offset", constant_axes_dropped(self.offset))

    @staticmethod
    def per_channel(gain: Array, offset: Array, rank: int, axis: int = 1) -> Affine:
        """Spread vectors of shape (C,) along one axis of a value of the given rank."""
        shape = [1] * rank
        shape[axis] = -1
        return Affine(gain.reshape(shape), offset.reshape(shape))

    @staticmethod
    def identity(rank: int) -> Affine:
        """Return gain 1 and offset 0 for a value of the given rank."""
        return Affine(np.ones([1] * rank), np.zeros([1] * rank))

    @property
    def rank(self) -> int:
        """Number of axes, equal to the value's."""
        return self.gain.ndim

    @property
    def has_offset(self) -> bool:
        """Return whether any offset differs from zero."""
        return bool(np.any(self.offset))

    @property
    def has_gain(self) -> bool:
        """Return whether any gain differs from one."""
        return bool(np.any(self.gain != 1))

    @property
    def is_identity(self) -> bool:
        """Return whether the affine leaves every value as it is."""
        return not self.has_gain and not self.has_offset

    def without_offset(self) -> Affine:
        """Return the affine's gain alone."""
        return Affine(self.gain, np.zeros([1] * self.rank))

    def map(self, change: Callable[[Array], Array]) -> Affine:
        """Return the affine with both arrays changed alike."""
        return Affine(change(self.gain), change(self.offset))

    def varies_along(self, axes: Sequence[int]) -> bool:
        """Return whether gain or offset vary along any of the axes."""
        return any(array.shape[axis] != 1 for array in (self.gain, self.offset) for axis in axes)

    def part(self, axis: int, start: int, end: int) -> Affine:
        """Return the affine of the elements from start to end along an axis."""
        index = (*(slice(None),) * (axis % self.rank), slice(start, end))
        return self.map(lambda array: array if array.shape[axis] == 1 else array[index])

    def along(self, axis: int, size: int) -> tuple[Array, Array] | None:
        """Return gain and offset as vectors along one axis.

        Args:
            axis: the axis, counted from the front or, if negative, from the back.
            size: its length.

        Returns:
            Two arrays of shape (size,), or None if gain or offset vary along another axis.
        """
        if not -self.rank <= axis < self.rank:
            return None
        vectors = []
        for array in (self.gain, self.offset):
            if array.size != array.shape[axis] or array.size not in (1, size):
                return None
            vector = array.reshape(-1)
            vectors.append(vector if vector.size == size else np.broadcast_to(vector, (size,)))
        return vectors[0], vectors[1]

    def equals(self, other: Affine) -> bool:
        """Return whether both are the same affine, bit for bit."""
        return np.array_equal(self.gain, other.gain) and np.array_equal(self.offset, other.offset)

    def fits(self, value: ir.Value | None) -> bool:
        """Return whether the affine has a value's rank, and the value a known, full size wherever the affine varies."""
        sizes = sizes_of(value)
        if sizes is None or len(sizes) != self.rank:
            return False
        return all(
            size in (1, own) for array in (self.gain, self.offset) for size, own in zip(array.shape, sizes, strict=True)
        )
