"""Error and noise of a folded output. How large an error they allow stands in `export.verify.tolerance`.

Noise is how far the original's own outputs change when each input changes by one unit in the last place.

    error      max |original - folded| / range
    noise      max |original(x) - original(x perturbed by one ulp)| / range, the median over several perturbations, or a
               quarter of the largest if that is more: a deep network may jump under one rounding in thirty
    range      max - min of the original's output over all inputs

Both are taken for each input x by itself, and the worst one is reported: a network may be well-conditioned at one input
and ill-conditioned at the next, where its own noise is ten thousand times as large. The same is measured once more for
each channel beside the channel's own range, see `export.verify.channels`.

Where the first operation rounds away a one-ulp perturbation of the input (no input is a float, or it is cast to float16
or is quantised at once), the original's float weights are perturbed too: each by one unit in the last place, which is
what folding does to a weight at most. So are values that a Cast makes narrower floats, by up to one unit in the last
place of the narrower type. The larger noise counts.

Where an error exceeds what that allows, the weights are perturbed too before it is called a difference: in deep
networks of float16, and where means are large beside deviations, roundings in the middle of the network add up to more
than a perturbation of its input does. A quarter of what the perturbed weights move counts as noise then, as a whole
unit in each weight is more than folding rounds. And the input is perturbed up to 16 times instead of 4, as four draws
may all be small by chance, or none of them a jump that folding happens to be; see `export.verify.pair`.

An output of integers or booleans has no small distance: error and noise are the share of elements that differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from normfold.export.arrays import Tensor, is_float
from normfold.export.verify.channels import worst_channel
from normfold.export.verify.tolerance import FLOOR, OutputDifference, floor_of, noise_of

Perturbed = Sequence[Sequence[Sequence[Tensor]]]
"""An output for each input, in groups of perturbations: of the input, of the weights."""


def measure(
    wanted: Sequence[Tensor],
    got: Sequence[Tensor],
    perturbed: Perturbed,
    shares: Sequence[float] | None = None,
    further: Sequence[Tensor] = (),
    by_channel: bool = True,
    has_steps: bool = False,
) -> OutputDifference:
    """Return error and noise of one output at the input where the error exceeds the allowed error most.

    Args:
        wanted: the original's tensor for each input.
        got: the folded model's.
        perturbed: for each input the original's, perturbed, in groups: perturbations of the input, of the weights.
        shares: for each group, how much of what it moves counts as noise; all of it without them.
        further: the original's for further inputs, which count for the range of a channel.
        by_channel: measure each channel beside its own range too.
        has_steps: the network's values jump where others cross a threshold, as where they are quantised.
    """
    distance = _Distance(wanted) if is_float(wanted[0]) else _ShareOfDifferent()
    shares = shares or [1.0] * len(perturbed[0])
    differences = []
    for index, (original, folded, groups) in enumerate(zip(wanted, got, perturbed, strict=True)):
        movements = [np.array([distance(original, other) for other in group]) for group in groups]
        noises = [float(noise_of(each, share)) for each, share in zip(movements, shares, strict=True) if each.size]
        error = distance(original, folded)
        differences.append(OutputDifference(error, max(noises), distance.floor, input_index=index))
    worst = max(differences, key=lambda difference: difference.excess)
    if not (by_channel and is_float(wanted[0]) and np.isfinite([worst.error, worst.noise]).all()):
        return worst
    return replace(worst, channel=worst_channel(wanted, got, perturbed, shares, further, has_steps))


class _ShareOfDifferent:
    """The share of elements in which two tensors of integers, booleans or text differ."""

    floor = FLOOR

    def __call__(self, wanted: Tensor, got: Tensor) -> float:
        if wanted.shape != got.shape:
            return float("inf")
        return float(np.mean(wanted != got)) if wanted.size else 0.0


class _Distance:
    """The largest absolute difference between two float tensors, relative to the output's range.

    An output that is constant has no range: there the distance is relative to its magnitude.
    """

    def __init__(self, wanted: Sequence[Tensor]) -> None:
        finite = np.concatenate([tensor[np.isfinite(tensor)].astype(np.float64) for tensor in wanted])
        magnitude = float(np.abs(finite).max(initial=0.0))
        self._has_values = bool(finite.size)
        self._range = (float(np.ptp(finite)) if finite.size else 0.0) or magnitude or 1.0
        self.floor = floor_of(wanted[0], magnitude, self._range)

    def __call__(self, wanted: Tensor, got: Tensor) -> float:
        if wanted.shape != got.shape or (wanted.size and not self._has_values):
            return float("inf")
        finite = np.isfinite(wanted)
        if not np.isfinite(got[finite]).all() or not np.array_equal(wanted[~finite], got[~finite], equal_nan=True):
            return float("inf")
        difference = np.abs(wanted[finite].astype(np.float64) - got[finite].astype(np.float64))
        return float(difference.max(initial=0.0)) / self._range
