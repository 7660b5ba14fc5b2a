"""Batch statistics from the change of running statistics, against those of the inputs, computed in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from normfold.models.batchnorm.during_training.running_values import Snapshot, batch_statistics, find_layers


class TwoLayers(nn.Module):
    """A BatchNorm, and one that is called twice."""

    def __init__(self, momentum: float | None) -> None:
        super().__init__()
        self.once = nn.BatchNorm2d(3, momentum=momentum)
        self.twice = nn.BatchNorm2d(3, momentum=momentum)

    def forward(self, x: Tensor) -> Tensor:
        x = self.once(x * 2 + 5)
        return self.twice(self.twice(x * 3 + 1) + x)  # type: ignore[no-any-return]


def steps_of(network: nn.Module, batches: list[Tensor]) -> tuple[list[Snapshot], dict[str, list[list[Tensor]]]]:
    """Run some steps; return the snapshots around them, and the inputs of each step's calls of each layer."""
    layers = find_layers(network)
    calls: dict[str, list[list[Tensor]]] = {name: [] for name in layers.names}
    for name, layer in zip(layers.names, layers.modules, strict=True):
        layer.register_forward_pre_hook(lambda _, args, name=name: calls[name][-1].append(args[0].detach().double()))
    snapshots = [layers.take_snapshot()]
    for batch in batches:
        for of_layer in calls.values():
            of_layer.append([])
        network(batch)
        snapshots.append(layers.take_snapshot())
    return snapshots, calls


@pytest.mark.parametrize("momentum", [0.1, 0.001, 1.0, None])
def test_batch_statistics_follow_from_the_change_of_the_running_statistics(momentum: float | None) -> None:
    torch.manual_seed(0)
    network = TwoLayers(momentum).train()
    snapshots, calls = steps_of(network, [torch.randn(5, 3, 4, 4) * factor for factor in (1, 2, 3)])
    means, variances = batch_statistics(find_layers(network), snapshots)
    for step in range(3):
        (only,) = calls["once"][step]
        np.testing.assert_allclose(means[step, :3], only.mean((0, 2, 3)), rtol=2e-3)
        np.testing.assert_allclose(variances[step, :3], only.var((0, 2, 3)), rtol=2e-3)
        first, second = (each.var((0, 2, 3)) for each in calls["twice"][step])
        low, high = torch.minimum(first, second).numpy(), torch.maximum(first, second).numpy()
        assert ((variances[step, 3:] >= low * 0.99) & (variances[step, 3:] <= high * 1.01)).all()


def test_batch_statistics_of_a_layer_that_is_not_called_are_not_measured() -> None:
    network = TwoLayers(0.1).train()
    network.once.eval()
    snapshots, _ = steps_of(network, [torch.randn(5, 3, 4, 4)])
    means, _ = batch_statistics(find_layers(network), snapshots)
    assert np.isnan(means[0, :3]).all()
    assert np.isfinite(means[0, 3:]).all()


def test_batch_statistics_with_a_weight_that_float32_loses_are_not_measured() -> None:
    network = TwoLayers(1e-7).train()
    snapshots, _ = steps_of(network, [torch.randn(5, 3, 4, 4)])
    assert np.isnan(batch_statistics(find_layers(network), snapshots)[0]).all()


def test_layers_without_running_statistics_are_not_found() -> None:
    network = nn.Sequential(nn.BatchNorm1d(2, track_running_stats=False), nn.LazyBatchNorm1d(), nn.BatchNorm1d(3))
    assert find_layers(network).names == ("2",)
    assert find_layers(nn.Linear(1, 1)).names == ()
