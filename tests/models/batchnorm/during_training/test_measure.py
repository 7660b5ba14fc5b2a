"""The three figures of a layer, against their definitions in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from normfold.models.batchnorm.during_training.measure import VALIDATION_ROWS, InferenceSums, measure
from normfold.models.batchnorm.during_training.running_values import find_layers
from normfold.models.statistics.epochs import LayerFigures


def difference(mean: Tensor, variance: Tensor, layer: nn.BatchNorm1d) -> float:
    """Return the root mean square, over channels, of the difference of normalised values."""
    assert layer.running_mean is not None
    assert layer.running_var is not None
    other = layer.running_var.double() + layer.eps
    shift = (mean - layer.running_mean.double()) / other.sqrt()
    scale = ((variance + layer.eps) / other).sqrt()
    return float((shift**2 + (scale - 1) ** 2).mean().sqrt())


def figures_of(network: nn.Module, batches: list[Tensor], validation: Tensor) -> dict[str, LayerFigures]:
    layers = find_layers(network)
    snapshots = [layers.take_snapshot()]
    for batch in batches:
        network(batch)
        snapshots.append(layers.take_snapshot())
    sums = [InferenceSums() for _ in layers.names]
    for part in validation.split(50):
        for each, layer in zip(sums, layers.modules, strict=True):
            each.add(layer, part)
    return measure(layers, snapshots, sums)


@pytest.mark.parametrize("momentum", [0.1, 0.01])
def test_figures_are_those_of_their_definitions(momentum: float) -> None:
    torch.manual_seed(0)
    network = nn.BatchNorm1d(4, momentum=momentum)
    batches = [torch.randn(6, 4) * 3 + 2 for _ in range(5)]
    validation = torch.randn(200, 4) * 0.5 - 1
    (found,) = figures_of(network, batches, validation).values()

    means = torch.stack([batch.double().mean(0) for batch in batches])
    variances = torch.stack([batch.double().var(0) for batch in batches])
    assert found.batch == pytest.approx(difference(means.mean(0), variances.mean(0), network), rel=1e-3)
    used = validation[:VALIDATION_ROWS].double()
    assert found.inference == pytest.approx(difference(used.mean(0), used.var(0, correction=0), network), rel=1e-3)
    assert network.running_var is not None
    ratio = used.var(0, correction=0) / network.running_var
    assert found.variance_ratio == pytest.approx(float(ratio.quantile(0.5)), rel=1e-3)
    squares = (means - means.mean(0)) ** 2 / variances.mean(0) + ((variances / variances.mean(0)).sqrt() - 1) ** 2
    assert found.noise == pytest.approx(float((squares.sum(0) / 4).mean().sqrt()), rel=1e-3)
    assert found.batches == 5


@pytest.mark.parametrize("rows", [4, 64])
def test_noise_of_normal_values_is_that_of_their_number(rows: int) -> None:
    """The mean of n values has a variance of 1 / n, and their standard deviation one of about 1 / (2 n)."""
    torch.manual_seed(0)
    network = nn.BatchNorm1d(1000)
    (found,) = figures_of(network, [torch.randn(rows, 1000) for _ in range(8)], torch.randn(64, 1000)).values()
    assert found.noise == pytest.approx(math.sqrt(1.5 / rows), rel=0.1)


def test_frozen_layer_has_no_figures_and_few_validation_rows_give_none() -> None:
    network = nn.Sequential(nn.BatchNorm1d(4), nn.BatchNorm1d(4))
    network[0].eval()
    found = figures_of(network, [torch.randn(6, 4)] * 2, torch.randn(63, 4))
    assert [*found] == ["1"]
    assert found["1"].batch is not None
    assert (found["1"].inference, found["1"].variance_ratio) == (None, None)


def test_values_that_are_not_finite_have_no_figures() -> None:
    network = nn.BatchNorm1d(4)
    (found,) = figures_of(network, [torch.full((6, 4), float("nan"))] * 2, torch.randn(99, 4)).values()
    assert (found.batch, found.noise, found.inference) == (None, None, None)


def test_inference_far_from_zero_keeps_its_digits() -> None:
    torch.manual_seed(0)
    network = nn.BatchNorm1d(4)
    batch = torch.randn(100, 4) + 1e4
    for _ in range(200):
        network(batch)
    (found,) = figures_of(network, [batch], batch).values()
    assert found.inference == pytest.approx(0, abs=0.02)
