"""The channel affine y = gain * x + offset, held as arrays that broadcast against the value it acts on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Affine:
    """y = gain * x + offset, in float64.

    Both arrays have the rank of the value, with size 1 on every axis along which they are constant. A per-channel
    affine of an image batch has shape (1, C, 1, 1). Reshape and Transpose can then act on the affine as they act on
    the value, and "per channel" is a test (`along`) made only where the affine is absorbed.
    """

    gain: Array
    offset: Array

    @staticmethod
    def per_channel(gain: Array, offset: Array, rank: int, axis: int = 1) -> Affine:
        """Spread vectors of shape (C,) along one axis of a value of the given rank."""
        shape = [1] * rank
        shape[axis] = -1
        return Affine(gain.reshape(shape), offset.reshape(shape))

    @property
    def rank(self) -> int:
        """Number of axes, equal to the value's."""
        return self.gain.ndim

    @property
    def has_offset(self) -> bool:
        """Whether any offset differs from zero."""
        return bool(np.any(self.offset))

    @property
    def is_identity(self) -> bool:
        """Whether the affine leaves every value as it is."""
        return not self.has_offset and bool(np.all(self.gain == 1))

    def without_offset(self) -> Affine:
        """Return the affine's gain alone."""
        return Affine(self.gain, np.zeros_like(self.offset))

    def along(self, axis: int, size: int) -> tuple[Array, Array] | None:
        """Return gain and offset as vectors along one axis.

        Args:
            axis: the axis, counted from the front or, if negative, from the back.
            size: its length.

        Returns:
            Two arrays of shape (size,), or None if gain or offset vary along another axis.
        """
        vectors = []
        for array in (self.gain, self.offset):
            if array.size != array.shape[axis] or array.size not in (1, size):
                return None
            vectors.append(np.broadcast_to(array.reshape(-1), (size,)))
        return vectors[0], vectors[1]

    def equals(self, other: Affine) -> bool:
        """Whether both are the same affine, bit for bit."""
        return np.array_equal(self.gain, other.gain) and np.array_equal(self.offset, other.offset)
