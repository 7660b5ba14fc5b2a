"""Differences between batch statistics and running statistics of each BatchNorm, measured at the end of an epoch.

Three figures, each the root mean square over channels of a difference of normalised values. A value that is normalised
to mean 0 and variance 1 by one mean and variance (m, v) has, normalised by others (m', v'), the difference
    sqrt(d² + (s - 1)²)        d = (m - m') / sqrt(v' + epsilon)        s = sqrt((v + epsilon) / (v' + epsilon))
in standard deviations, as a root mean square over the values.

    batch        mean of the statistics of the epoch's last batches, against the running statistics
    noise        statistics of each of these batches, against their mean
    inference    statistics of the inputs in eval mode, on validation rows, against the running statistics
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from normfold.contract.arrays import Float64Array
from normfold.models.batchnorm.during_training.running_values import Layers, Snapshot, batch_statistics
from normfold.models.statistics.epochs import LayerFigures

LAST_STEPS = 8
"""Steps at the end of an epoch whose batches are compared."""

VALIDATION_ROWS = 128
"""Largest number of rows on which inputs in eval mode are measured."""

MIN_VALIDATION_ROWS = 64
"""Rows below which they are not, since the rows' own noise would be found: sqrt(1.5 / rows) with normal values."""


@dataclass
class InferenceSums:
    """Sums over a layer's inputs in eval mode, relative to its running mean, so that they lose no digits."""

    rows: int = 0
    values: int = 0
    total: Tensor | float = 0.0
    squares: Tensor | float = 0.0

    def add(self, layer: _BatchNorm, x: Tensor) -> None:
        """Add the first rows of a batch (N, C, *size), up to VALIDATION_ROWS of all batches together."""
        x = x[: max(0, VALIDATION_ROWS - self.rows)].float()
        if not len(x):
            return
        assert layer.running_mean is not None
        axes = [0, *range(2, x.ndim)]
        centred = x - layer.running_mean.reshape(1, -1, *[1] * (x.ndim - 2))
        self.rows += len(x)
        self.values += x.numel() // x.shape[1]
        self.total = self.total + centred.sum(axes)  # (C,)
        self.squares = self.squares + centred.square_().sum(axes)  # (C,); in place, which takes a third of the time

    def moments(self, channels: int) -> tuple[Float64Array, Float64Array]:
        """Return mean, relative to the running mean, and variance: (C,) each; NaN if there are too few rows."""
        if self.rows < MIN_VALIDATION_ROWS:
            return np.full(channels, np.nan), np.full(channels, np.nan)
        mean, square = (
            torch.as_tensor(each).cpu().double().numpy() / self.values for each in (self.total, self.squares)
        )
        return mean, np.maximum(square - mean**2, 0.0)


def measure(layers: Layers, snapshots: Sequence[Snapshot], sums: Sequence[InferenceSums]) -> dict[str, LayerFigures]:
    """Return the figures of each layer that the last steps called in train mode; a frozen one keeps its statistics.

    Args:
        layers: of the network.
        snapshots: before the first of the last steps, and after each.
        sums: of each layer's inputs in eval mode.
    """
    last = snapshots[-1]
    running_mean, running_var = (value.cpu().double().numpy() for value in (last.mean, last.variance))
    epsilon = layers.by_channel([layer.eps for layer in layers.modules])
    means, variances = batch_statistics(layers, snapshots)
    called = ~np.isnan(means)
    count = np.maximum(called.sum(0), 1)
    with np.errstate(all="ignore"):
        mean, variance = (np.where(called, each, 0).sum(0) / count for each in (means, variances))
        mean[~called.any(0)] = np.nan
        batch = _squares(mean - running_mean, variance, running_var, epsilon)
        noise = np.where(called, _squares(means - mean, variances, variance, epsilon), 0).sum(0) / (count - 1)
        moments = [each.moments(channels) for each, channels in zip(sums, layers.channels, strict=True)]
        shift, spread = (np.concatenate(each) for each in zip(*moments, strict=True))
        inference = _squares(shift, spread, running_var, epsilon)
        ratio = (spread + epsilon) / (running_var + epsilon)
    parts = zip(*(layers.split(each) for each in (batch, noise, inference, ratio)), strict=True)
    batches = (last.batches - snapshots[0].batches).tolist(), last.batches.tolist()
    return {
        name: LayerFigures(
            batch=_root_mean(of_batch),
            noise=_root_mean(of_noise),
            inference=_root_mean(of_inference),
            variance_ratio=_median(of_ratio),
            batches=int(total),
        )
        for name, (of_batch, of_noise, of_inference, of_ratio), new, total in zip(
            layers.names, parts, *batches, strict=True
        )
        if new
    }


def _squares(
    difference: Float64Array, variance: Float64Array, other: Float64Array, epsilon: Float64Array
) -> Float64Array:
    """Return d² + (s - 1)² of each channel."""
    scale = np.sqrt((variance + epsilon) / (other + epsilon))
    squares: Float64Array = difference**2 / (other + epsilon) + (scale - 1) ** 2
    return squares


def _root_mean(squares: Float64Array) -> float | None:
    root = float(np.sqrt(squares.mean()))
    return root if np.isfinite(root) else None


def _median(values: Float64Array) -> float | None:
    median = float(np.median(values))
    return median if np.isfinite(median) else None
