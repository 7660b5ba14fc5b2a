"""Mixup: each sample of a batch is mixed with another one, and so are their losses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Mixed:
    """The mixing of a batch."""

    weight: float
    """Of the samples themselves, 0.5 to 1."""
    partners: Tensor
    """Place of each sample's partner in the batch, (B,), int64."""

    def samples(self, x: Tensor) -> Tensor:
        """Return weight * x + (1 - weight) * x[partners], of the shape of `x`."""
        return self.weight * x + (1 - self.weight) * x[self.partners]

    def loss(self, loss: Callable[[Tensor, Tensor], Tensor], outputs: Tensor, y: Tensor) -> Tensor:
        """Return the loss for the samples' targets and for their partners', by weight: ()."""
        return self.weight * loss(outputs, y) + (1 - self.weight) * loss(outputs, y[self.partners])


def draw_mixed(
    alpha: float, rows: int, device: torch.device, *, seed: int, epoch: int, step: int, process: int
) -> Mixed:
    """Draw the mixing of a batch: a function of (seed, epoch, step, process).

    The weight w is drawn from Beta(alpha, alpha), and max(w, 1 - w) is taken, so that the accuracy of the epoch, which
    is that of the samples' own targets, says something.

    Source: Zhang et al. 2018, arXiv:1710.09412, equation 1.

    Args:
        alpha: of the distribution, above 0; 0.2 mixes little, 1 evenly.
        rows: of the batch.
        device: of the partners.
        seed: of the run.
        epoch: from 1.
        step: of the epoch, from 0.
        process: index of this process.
    """
    rng = np.random.default_rng((seed, epoch, step, process, 2))
    weight = float(rng.beta(alpha, alpha))
    return Mixed(max(weight, 1 - weight), torch.from_numpy(rng.permutation(rows)).to(device))
