"""The tolerance of a verification: a folded output's error beside the network's own noise.

A fixed tolerance is wrong both ways: one rounding may change a deep, ill-conditioned network by 1e-2 and a shallow one
by 1e-7. So the allowance is measured. Noise is how far the original's own outputs change when each input changes by one
unit in the last place; a folded network may differ by 8 times that, plus 1e-6.

    error      max |original - folded| / range
    noise      max |original(x) - original(x perturbed by one ulp)| / range, the median over several perturbations
    range      max - min of the original's output over all inputs; at least so much that the floor below is one unit in
               the last place of its largest magnitude

Both are taken for each input x by itself, and the worst one is reported: a network may be well-conditioned at one input
and ill-conditioned at the next, where its own noise is ten thousand times as large.

Where the first operation rounds away a one-ulp perturbation of the input (no input is a float, or it is cast to float16
or is quantised at once), the original's float weights are perturbed too: each by one unit in the last place, which is
what folding does to a weight at most. The larger noise counts. An output of integers or booleans has no small distance:
error and noise are the share of elements that differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from normfold.export.arrays import Tensor

NOISE_FACTOR = 8.0
"""Allowed error for each unit of noise.

Quoted, as FLOOR is, in the docstrings of `normfold.fold` and `normfold.verify` and in the help of both commands; a test
compares them."""
FLOOR = 1e-6


@dataclass(frozen=True)
class OutputDifference:
    """Error of one output of the folded model, and the original's noise, relative to the output's range."""

    error: float
    noise: float

    @property
    def allowed(self) -> float:
        """Return the largest error that passes. Noise without bound allows nothing: then nothing can be verified."""
        return NOISE_FACTOR * self.noise + FLOOR if np.isfinite(self.noise) else 0.0

    @property
    def excess(self) -> float:
        """Return error over allowance: more than 1 does not pass."""
        return self.error / self.allowed if self.allowed and np.isfinite(self.error) else float("inf")

    @property
    def ratio(self) -> float:
        """Return error over noise; infinite where the network has none."""
        return self.error / self.noise if self.noise else float("inf") if self.error else 0.0

    @property
    def passes(self) -> bool:
        """Return whether the error is allowed; a NaN error is not."""
        return bool(np.isfinite(self.noise)) and self.error <= self.allowed


def is_float(tensor: Tensor) -> bool:
    """Return whether a tensor holds floats, bfloat16 included, which NumPy itself does not know."""
    return tensor.dtype.kind == "f" or tensor.dtype.name == "bfloat16"


def measure(
    wanted: Sequence[Tensor], got: Sequence[Tensor], perturbed: Sequence[Sequence[Sequence[Tensor]]]
) -> OutputDifference:
    """Return error and noise of one output at the input where the error exceeds its allowance most.

    Args:
        wanted: the original's tensor for each input.
        got: the folded model's.
        perturbed: for each input the original's, perturbed, in groups: perturbations of the input, of the weights.
    """
    distance = _Distance(wanted) if is_float(wanted[0]) else _share_of_different
    differences = []
    for original, folded, groups in zip(wanted, got, perturbed, strict=True):
        noises = [float(np.median([distance(original, other) for other in group])) for group in groups]
        differences.append(OutputDifference(error=distance(original, folded), noise=max(noises)))
    return max(differences, key=lambda difference: difference.excess)


def _share_of_different(wanted: Tensor, got: Tensor) -> float:
    if wanted.shape != got.shape:
        return float("inf")
    return float(np.mean(wanted != got)) if wanted.size else 0.0


class _Distance:
    """The largest absolute difference between two float tensors, relative to the output's range."""

    def __init__(self, wanted: Sequence[Tensor]) -> None:
        finite = np.concatenate([tensor[np.isfinite(tensor)].astype(np.float64) for tensor in wanted])
        self._has_values = bool(finite.size)
        resolution = float(np.abs(finite).max(initial=0.0)) * _epsilon(wanted[0])
        self._range = max(float(np.ptp(finite)), resolution / FLOOR) or 1.0 if finite.size else 1.0

    def __call__(self, wanted: Tensor, got: Tensor) -> float:
        if wanted.shape != got.shape or (wanted.size and not self._has_values):
            return float("inf")
        finite = np.isfinite(wanted)
        if not np.isfinite(got[finite]).all() or not np.array_equal(wanted[~finite], got[~finite], equal_nan=True):
            return float("inf")
        difference = np.abs(wanted[finite].astype(np.float64) - got[finite].astype(np.float64))
        return float(difference.max(initial=0.0)) / self._range


def _epsilon(tensor: Tensor) -> float:
    return 2.0**-7 if tensor.dtype.name == "bfloat16" else float(np.finfo(tensor.dtype).eps)
