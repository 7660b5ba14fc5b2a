"""Inputs of 8-bit pixels: their standardisation, which the fold takes into the first layers.

    before   x = (p / 255 - mean) / std, computed by the caller as the card says
    after    p, uint8, 0 to 255, and in front Cast, Add and Mul, which the fold takes like any affine

Of those three the fold leaves the Cast, and the Add where the first Conv pads with zeros: they stand for x = 0, not for
p = 0, so the mean must go before. A network that begins with such arithmetic of its own gets the Cast alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from normfold.contract.preprocess import ImagePreprocessing, Preprocessing
from normfold.export.arrays import Array, Tensor
from normfold.export.errors import PixelError

FULL = 255.0
"""The pixel of full intensity."""


@dataclass(frozen=True, eq=False)
class Pixels:
    """Standardisation of 8-bit pixels p: x = gain * p + offset, arrays of shape (C, 1, 1) or ()."""

    gain: Array
    offset: Array

    @staticmethod
    def of(preprocessing: ImagePreprocessing | None) -> Pixels:
        """Return the standardisation of a card; without one, the network takes pixels already, as floats."""
        if preprocessing is None:
            return Pixels(np.ones(()), np.zeros(()))
        mean, std = (np.array(values).reshape(-1, 1, 1) for values in (preprocessing.mean, preprocessing.std))
        return Pixels(1 / (FULL * std), -mean / std)

    def standardised(self, pixels: Tensor, dtype: ir.DataType) -> Tensor:
        """Return what the network took before: computed in float64, rounded once to `dtype`."""
        tensor: Tensor = (self.gain * pixels.astype(np.float64) + self.offset).astype(dtype.numpy())
        return tensor

    def pixels_of(self, tensor: Tensor) -> Tensor:
        """Return the pixels, uint8, of what the network took before: rounded to the nearest, and cut to 0 to 255."""
        pixels: Tensor = np.clip(np.rint((tensor - self.offset) / self.gain), 0, FULL).astype(np.uint8)
        return pixels


@dataclass(frozen=True)
class FromPixels:
    """The option that a model take pixels, with the preprocessing that its card has, if any."""

    preprocessing: ImagePreprocessing | None = None


def from_pixels(preprocessing: Preprocessing | None) -> FromPixels:
    """Return the option for a card's preprocessing.

    Raises:
        PixelError: it is of rows or sequences.
    """
    if preprocessing is not None and not isinstance(preprocessing, ImagePreprocessing):
        kind = {"row": "rows of a table", "table": "rows of a table", "sequence": "sequences"}[preprocessing.kind]
        raise PixelError(f"The card's preprocessing is of {kind}; only images are made of pixels.")
    return FromPixels(preprocessing)


@dataclass(frozen=True)
class PixelInput:
    """An input that takes pixels now: its name, their standardisation, and the nodes that do it."""

    name: str
    pixels: Pixels
    nodes: tuple[ir.Node, ...]

    @property
    def left(self) -> tuple[str, ...]:
        """Operators of those nodes that are still in the graph, the Cast apart."""
        return tuple(node.op_type for node in self.nodes if node.graph is not None)

    def to_dict(self) -> dict[str, Any]:
        """Return plain types for JSON."""
        return {"name": self.name, "datatype": "UINT8", "left": list(self.left)}
