"""Rows drawn for a value of which mean and standard deviation of each channel are known.

Three kinds of rows, so that what the operators behind the value do with it keeps its range:

- independent at every position;
- constant over positions, so that a mean over them keeps its spread; stratified over the rows (McKay et al. 1979);
- far: independent, but one number in eight lies `sigmas` standard deviations from the mean. The carriers, as the values
  are called that statistics are known of, take turns in these rows: the sum of two has one such number, not two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from normfold.export.quantize.channel_statistics import ChannelStatistics

TURNS = 4
FAR_SHARE = 1 / 8

Float32Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class RowPlan:
    """How many rows of each kind are drawn, in this order."""

    independent: int
    constant: int
    far: int

    @property
    def near(self) -> int:
        """Rows without far numbers: those that mean and standard deviation are taken from."""
        return self.independent + self.constant

    @property
    def total(self) -> int:
        """All rows."""
        return self.near + self.far


def plan_rows(near: int) -> RowPlan:
    """Return a plan of so many rows without far numbers, half of them constant."""
    return RowPlan(near - near // 2, near // 2, max(2 * TURNS, near // TURNS))


class Carrier:
    """Draws the rows of one value.

    Args:
        statistics: of the value.
        plan: of the rows.
        turn: number of the value among the carriers.
        sigmas: where far numbers lie.
        seed: of the rows.
    """

    def __init__(self, statistics: ChannelStatistics, plan: RowPlan, turn: int, sigmas: float, seed: int) -> None:
        self._mean, self._std = (each.astype(np.float32) for each in (statistics.mean, statistics.std))
        self._plan, self._turn, self._sigmas, self._seed = plan, turn, sigmas, seed
        rng = np.random.default_rng([seed, turn])
        normal = NormalDist()
        levels = [normal.inv_cdf((row + 0.5) / plan.constant) for row in range(plan.constant)]
        order = rng.permuted(np.tile(np.arange(plan.constant), (self._mean.size, 1)), axis=1)
        self._constant = np.array(levels, np.float32)[order.T]

    def rows(self, start: int, stop: int, shape: Sequence[int]) -> Float32Array:
        """Return some of the rows, (rows · shape[0], C, ...).

        Args:
            start: of the rows.
            stop: behind the last.
            shape: of one row's value; its first axis has more than one number where a Reshape made rows of others.
        """
        return np.concatenate([self._row(row, shape) for row in range(start, stop)])

    def _row(self, row: int, shape: Sequence[int]) -> Float32Array:
        across = (1, -1, *[1] * (len(shape) - 2))
        plan = self._plan
        if plan.independent <= row < plan.near:
            z = np.broadcast_to(self._constant[row - plan.independent].reshape(across), shape)
        else:
            rng = np.random.default_rng([self._seed, self._turn, row])
            z = rng.standard_normal(shape, np.float32)
            if row >= plan.near and row % TURNS == self._turn % TURNS:
                chosen = rng.random(shape, np.float32)
                z[chosen < FAR_SHARE] = self._sigmas
                z[chosen < FAR_SHARE / 2] = -self._sigmas
        drawn: Float32Array = z * self._std.reshape(across) + self._mean.reshape(across)
        return drawn
