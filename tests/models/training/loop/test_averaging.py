from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from normfold.models.batchnorm.recalibrate_run import recalibrate_run
from normfold.models.statistics.hooks import input_hooks, named_batchnorms
from normfold.models.training.checkpoint import load_checkpoint
from normfold.models.training.loop.averaging import AveragedWeights, decay_after
from normfold.models.training.train import fit
from tests.support.training import MakeRun

pytestmark = pytest.mark.slow


def test_average_is_the_exponential_one_with_a_small_decay_at_first() -> None:
    network = nn.Linear(1, 1, bias=False)
    averaged = AveragedWeights(network, 0.5)
    expected = 0.0
    for count in range(12):
        value = float(count * count)
        nn.init.constant_(network.weight, value)
        averaged.update()
        decay = min(0.5, (1 + count) / (10 + count))
        expected = value if count == 0 else decay * expected + (1 - decay) * value
    assert averaged.network.weight.item() == pytest.approx(expected, rel=1e-5)
    assert decay_after(0, 0.9) == 0.1
    assert decay_after(10**6, 0.9) == 0.9


def test_average_has_statistics_of_its_own_and_leaves_frozen_ones() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 3), nn.BatchNorm1d(3))
    averaged = AveragedWeights(network, 0.9)
    x = torch.randn(64, 4)
    network(x)
    averaged.update()
    averaged.recalibrate(x, frozen=("4",))
    assert torch.equal(averaged.network[4].running_mean, network[4].running_mean)
    inputs: list[torch.Tensor] = []
    with input_hooks([*named_batchnorms(averaged.network)][:1], lambda _name, _layer, value: inputs.append(value)):
        averaged.network(x)
    assert torch.allclose(averaged.network[1].running_mean, inputs[0].mean(0), atol=1e-6)
    assert torch.allclose(averaged.network[1].running_var, inputs[0].var(0, correction=0), atol=1e-6)


@pytest.mark.usefixtures("on_cpu")
def test_averaged_checkpoint_is_saved_if_it_validates_better(tmp_path: Path, make_run: MakeRun) -> None:
    config, dataset = make_run(epochs=4, lr=0.05, ema=0.9)
    result = fit(config, dataset, tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    ranks = [
        (line[f"{kind}_accuracy"], -line[f"{kind}_loss"], -line["epoch"], kind)
        for line in lines
        for kind in ("validation", "averaged")
    ]
    accuracy, loss, epoch, kind = max(ranks)
    assert (result.best_epoch, result.config.averaged) == (-epoch, kind == "averaged")
    assert result.metrics["validation_accuracy"] == accuracy
    assert result.metrics["validation_loss"] == pytest.approx(-loss, rel=1e-6)
    assert load_checkpoint(result.folder).config.averaged == result.config.averaged


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize("ema", [0.8, None])
def test_averaged_run_names_its_weights_and_recalibration_of_them_changes_nothing(
    tmp_path: Path, make_run: MakeRun, ema: float | None
) -> None:
    config, dataset = make_run(epochs=3, lr=0.1, optimizer="sgd", schedule="constant", ema=ema)
    result = fit(config, dataset, tmp_path / "run")
    assert result.config.averaged is (ema is not None)
    saved = load_checkpoint(result.folder).network
    measured = recalibrate_run(result.folder).checkpoint.network
    pairs = [
        (one.running_mean, other.running_mean)
        for one, other in zip(saved.modules(), measured.modules(), strict=True)
        if isinstance(one, _BatchNorm)
    ]
    assert pairs
    assert all(torch.allclose(one, other, atol=1e-5) for one, other in pairs) is (ema is not None)
