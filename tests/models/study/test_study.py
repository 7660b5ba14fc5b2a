"""The harness and the experiments of the study, with few steps and seeds."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from normfold.models.study import (
    batch_sizes,
    convergence,
    generalisation,
    layer_inputs,
    ranges,
    regularisation,
    serving_modes,
)
from normfold.models.study.batch_sizes import batchnorms_of, errors_of_statistics, recalibrated_copy
from normfold.models.study.experiments import EXPERIMENTS
from normfold.models.study.harness import blocks_of, load_digits, make_convnet, make_mlp, measure, train
from normfold.models.study.result import ExperimentResult
from normfold.models.study.training_cost import saved_bytes, training_costs

SEEDS = (0, 1)

TINY: dict[str, tuple[Callable[[], ExperimentResult], tuple[str, ...], int]] = {
    "layer-inputs": (lambda: layer_inputs.run(SEEDS, 4), layer_inputs.COLUMNS, 2),
    "convergence": (lambda: convergence.run(SEEDS, 6, (0.03, 0.1)), convergence.COLUMNS, 4),
    "learning-rates": (lambda: ranges.run_rates(SEEDS, 2, (0.1, 1.0)), ranges.RATE_COLUMNS, 2),
    "initial-weights": (lambda: ranges.run_scales(SEEDS, 2, (0.1, 1.0, 10.0)), ranges.SCALE_COLUMNS, 3),
    "regularisation": (lambda: regularisation.run(SEEDS, 2), regularisation.COLUMNS, len(regularisation.VARIANTS)),
    "generalisation": (lambda: generalisation.run(SEEDS, 2, (70, 100)), generalisation.COLUMNS, 4),
    "batch-sizes": (lambda: batch_sizes.run(SEEDS, 2, (2, 32)), batch_sizes.COLUMNS, 2),
    "serving-modes": (lambda: serving_modes.run(SEEDS, 2), serving_modes.COLUMNS, len(serving_modes.REQUESTS)),
}


def test_all_experiments_are_tested() -> None:
    assert len(EXPERIMENTS) == len(TINY)


@pytest.mark.slow
@pytest.mark.parametrize("name", TINY)
def test_experiment_returns_its_rows_and_a_plot(name: str) -> None:
    run, columns, rows = TINY[name]
    found = run()
    assert found.name == name
    assert found.table.columns == columns
    assert len(found.table.rows) == rows
    assert found.checks
    assert all(len(check.differences) == len(SEEDS) for check in found.checks)
    image = Image.open(io.BytesIO(found.plot))
    assert image.format == "PNG"
    assert np.ptp(np.asarray(image.convert("L"))) > 200  # something is drawn


@pytest.mark.slow
@pytest.mark.parametrize("name", ["regularisation", "serving-modes"])
def test_experiment_is_reproducible(name: str) -> None:
    run, _, _ = TINY[name]
    assert run() == run()


def trained(seed: int, batchnorm: bool) -> nn.Module:
    network = make_mlp(seed, batchnorm, dropout=0.2)
    train(network, load_digits(), seed, 5)
    return network


@pytest.mark.slow
@pytest.mark.parametrize("batchnorm", [True, False])
def test_network_depends_on_its_seed(batchnorm: bool) -> None:
    one, same, other = (
        trained(0, batchnorm).state_dict(),
        trained(0, batchnorm).state_dict(),
        trained(1, batchnorm).state_dict(),
    )
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert not torch.equal(one["classifier.weight"], other["classifier.weight"])


@pytest.mark.parametrize("make", [make_mlp, make_convnet])
def test_both_networks_of_a_seed_have_the_same_initial_weights(make: Callable[[int, bool], nn.Module]) -> None:
    with_batchnorm, without = make(3, True), make(3, False)
    pairs = list(zip(blocks_of(with_batchnorm), blocks_of(without), strict=True))
    assert pairs
    for one, other in pairs:
        assert isinstance(one.norm, (nn.BatchNorm1d, nn.BatchNorm2d))
        assert isinstance(other.norm, nn.Identity)
        assert torch.equal(one.weight_layer.weight, other.weight_layer.weight)
        assert one.weight_layer.bias is None
        assert isinstance(other.weight_layer.bias, nn.Parameter)


@pytest.mark.slow
def test_training_learns_digits() -> None:
    digits = load_digits()
    network = make_mlp(0, batchnorm=True)
    train(network, digits, 0, 60)
    assert measure(network, digits.test_x, digits.test_y)[1] > 0.8
    assert not network.training


def test_training_ends_when_the_loss_is_not_finite() -> None:
    digits = load_digits()
    network = make_mlp(0, batchnorm=False)
    observed: list[int] = []
    train(network, digits, 0, 20, lr=1e30, observe=observed.append)
    assert observed[-1] == 20
    assert len(observed) < 20
    assert measure(network, digits.test_x, digits.test_y)[1] == 0.0


def test_observing_does_not_change_the_training() -> None:
    digits = load_digits()
    network = make_mlp(0, batchnorm=True)
    before = copy.deepcopy(network.state_dict())
    layer_inputs.last_activation_inputs(network, digits.test_x[:20])
    layer_inputs.gradient_change(network, digits.test_x[:20], digits.test_y[:20])
    after = network.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_gradient_change_is_zero_without_a_step_of_earlier_layers() -> None:
    digits = load_digits()
    network = make_mlp(0, batchnorm=False)
    x, y = digits.test_x[:20], digits.test_y[:20]
    assert layer_inputs.gradient_change(network, x, y, lr=0.0) == pytest.approx(0, abs=1e-9)
    assert layer_inputs.gradient_change(network, x, y, lr=0.1) > 1e-3


def test_recalibrated_copy_has_the_statistics_of_all_rows() -> None:
    digits = load_digits()
    network = make_mlp(0, batchnorm=True)
    train(network, digits, 0, 5)
    exact = recalibrated_copy(network, digits.train_x)
    first = blocks_of(network)[0].weight_layer(digits.train_x.flatten(1))
    torch.testing.assert_close(batchnorms_of(exact)[0].running_mean, first.mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(batchnorms_of(exact)[0].running_var, first.var(0), rtol=1e-4, atol=1e-5)
    assert errors_of_statistics(exact, exact) == (0.0, 0.0)
    mean_error, variance_error = errors_of_statistics(network, exact)
    assert mean_error > 0
    assert variance_error > 0


def test_recalibrated_copy_measures_each_layer_after_recalibrated_ones() -> None:
    digits = load_digits()
    network = make_mlp(0, batchnorm=True)
    train(network, digits, 0, 40)
    before = copy.deepcopy(network.state_dict())
    exact = recalibrated_copy(network, digits.train_x)
    one_batch = copy.deepcopy(network).double().train()
    seen: list[torch.Tensor] = []
    for layer in batchnorms_of(one_batch):
        layer.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    one_batch(digits.train_x.double())
    assert not exact.training
    for layer, given in zip(batchnorms_of(exact), seen, strict=True):
        torch.testing.assert_close(layer.running_mean, given.mean(0).float(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(layer.running_var, given.var(0).float(), rtol=1e-4, atol=1e-5)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_error_of_one_standard_deviation_is_one() -> None:
    network = make_mlp(0, batchnorm=True)
    moved = copy.deepcopy(network)
    for layer in batchnorms_of(network):
        layer.running_mean += 3.0
        layer.running_var += 8.0
    for layer in batchnorms_of(moved):
        layer.running_var += 8.0
    assert errors_of_statistics(network, moved)[0] == pytest.approx(1.0)


def test_dropout_has_the_position_of_its_variant() -> None:
    before = regularisation.make_network(0, regularisation.VARIANTS[regularisation.BEFORE])
    after = regularisation.make_network(0, regularisation.VARIANTS[regularisation.AFTER])
    assert [type(layer).__name__ for layer in before.blocks][-3:] == ["LinearBatchNorm", "Dropout", "LinearBatchNorm"]
    assert before.dropout.p == 0.0
    assert not any(isinstance(layer, nn.Dropout) for layer in after.blocks)
    assert after.dropout.p == regularisation.DROPOUT


def test_requests_hold_each_digit_once_or_a_single_class() -> None:
    labels = load_digits().test_y
    for kind, split in serving_modes.REQUESTS.items():
        for requests in split(labels):
            if kind == serving_modes.ONE_CLASS:
                assert all(len(labels[rows].unique()) == 1 for rows in requests)
            else:
                assert torch.cat(requests).sort().values.tolist() == list(range(len(labels)))


def test_saved_bytes_are_those_of_the_saved_tensors() -> None:
    layer = nn.Sequential(nn.Linear(64, 10, bias=False))
    x, y = torch.zeros(8, 64), torch.zeros(8, dtype=torch.int64)
    assert saved_bytes(layer, x, y) >= x.nbytes
    assert saved_bytes(layer, x.repeat(2, 1), y.repeat(2)) > saved_bytes(layer, x, y)


def test_training_with_batchnorm_saves_more_for_backward() -> None:
    with_batchnorm, without = training_costs("convolutional", 0, rounds=1).values()
    assert with_batchnorm.saved_bytes > without.saved_bytes
    assert min(with_batchnorm.milliseconds, without.milliseconds) > 0
