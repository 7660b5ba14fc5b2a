"""The running statistics of all BatchNorms of a network, and the batch statistics that follow from their change.

torch changes the running statistics in every training step by
    running <- (1 - momentum) * running + momentum * batch
so two copies of them, before and after a step, give the statistics of its batch without another pass over the data:
    batch = before + (after - before) / weight        weight = 1 - (1 - momentum)^calls
With `momentum=None` torch averages over all batches, and the weight is calls / batches. Of a layer that a step calls
several times this is the weighted mean over the calls. The variance is unbiased, as the running variance is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import is_lazy

from normfold.contract.arrays import Float64Array
from normfold.models.statistics.hooks import has_running_statistics, named_batchnorms

MIN_WEIGHT = 1e-5
"""Smallest weight of a batch from which it is computed: rounding of float32 has an error of 6e-8 / weight."""


@dataclass(frozen=True)
class Snapshot:
    """Running statistics of all layers after a step, their channels one after the other."""

    mean: Tensor
    """(channels of all layers,)."""
    variance: Tensor
    """(channels of all layers,)."""
    batches: Tensor
    """Batches that each layer has seen, (layers,)."""


@dataclass(frozen=True)
class Layers:
    """The BatchNorms of a network that keep running statistics."""

    names: tuple[str, ...]
    modules: tuple[_BatchNorm, ...]

    @property
    def channels(self) -> list[int]:
        """Channels of each layer."""
        return [layer.num_features for layer in self.modules]

    def take_snapshot(self) -> Snapshot:
        """Copy the running statistics; on a GPU nothing waits for the copies."""
        return Snapshot(
            torch.cat([_tensor(layer.running_mean) for layer in self.modules]).float(),
            torch.cat([_tensor(layer.running_var) for layer in self.modules]).float(),
            torch.stack([_tensor(layer.num_batches_tracked) for layer in self.modules]),
        )

    def by_channel(self, of_layers: Sequence[float] | Float64Array) -> Float64Array:
        """Repeat a value of each layer for each of its channels: (layers,) -> (channels of all layers,)."""
        repeated: Float64Array = np.repeat(np.asarray(of_layers, dtype=np.float64), self.channels)
        return repeated

    def split(self, of_channels: Float64Array) -> Iterator[Float64Array]:
        """Yield the part of each layer: (..., channels of all layers) -> (..., channels)."""
        yield from np.split(of_channels, np.cumsum(self.channels)[:-1], axis=-1)


def find_layers(network: nn.Module) -> Layers:
    """Return the layers of a network that keep running statistics."""
    found = {
        name: layer
        for name, layer in named_batchnorms(network)
        if has_running_statistics(layer)
        and layer.num_batches_tracked is not None
        and not is_lazy(_tensor(layer.running_mean))
    }
    return Layers(tuple(found), tuple(found.values()))


def batch_statistics(layers: Layers, snapshots: Sequence[Snapshot]) -> tuple[Float64Array, Float64Array]:
    """Return mean and variance of the batch of each step, computed from the running statistics around it.

    Args:
        layers: of the network.
        snapshots: before the first of some consecutive steps, and after each of them.

    Returns:
        Two arrays (steps, channels of all layers); NaN where a step did not call the layer, or its weight is too small.
    """
    mean, variance = (
        np.stack([value.cpu().double().numpy() for value in values])
        for values in zip(*((each.mean, each.variance) for each in snapshots), strict=True)
    )
    weight = np.stack([layers.by_channel(each) for each in _weights(layers, snapshots)])
    with np.errstate(divide="ignore", invalid="ignore"):
        weight = np.where(weight < MIN_WEIGHT, np.nan, weight)
        means = mean[:-1] + np.diff(mean, axis=0) / weight
        variances = variance[:-1] + np.diff(variance, axis=0) / weight
    return means, np.maximum(variances, 0.0)


def _weights(layers: Layers, snapshots: Sequence[Snapshot]) -> Float64Array:
    """Return the weight of each step's batches in the running statistics after it: (steps, layers)."""
    batches = np.stack([each.batches.cpu().double().numpy() for each in snapshots])
    calls = np.diff(batches, axis=0)
    momentum = np.array([np.nan if layer.momentum is None else layer.momentum for layer in layers.modules])
    averaged = calls / np.maximum(batches[1:], 1)
    weights: Float64Array = np.where(np.isnan(momentum), averaged, 1 - (1 - np.nan_to_num(momentum)) ** calls)
    return weights


def _tensor(value: Tensor | None) -> Tensor:
    assert value is not None  # find_layers leaves out layers without statistics
    return value
