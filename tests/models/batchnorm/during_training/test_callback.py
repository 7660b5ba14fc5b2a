"""A run with the callback: its file, picture and warning, and that it changes nothing."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from normfold.models.architectures.registry import Architecture, build
from normfold.models.batchnorm.during_training.callback import StatisticsCallback
from normfold.models.data.data import Dataset
from normfold.models.errors import DivergedError, TrainingWarning
from normfold.models.statistics.epochs import STATISTICS_NAME, read_statistics
from normfold.models.tasks.task import Result
from normfold.models.training.callback import TrainingCallback, call_all
from normfold.models.training.checkpoint import RunConfig
from normfold.models.training.train import FitResult, fit
from tests.support.training import MakeRun, StopAfter


def fit_watched(
    config: RunConfig, dataset: Dataset, folder: Path, then: TrainingCallback | None = None, **options: Any
) -> tuple[FitResult, list[str]]:
    """Train with the callback; return the result, and the warnings at the end."""
    callback = StatisticsCallback(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TrainingWarning)
        result = fit(config, dataset, folder, callback=call_all(callback, then or TrainingCallback()), **options)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        callback.finish(result.config)
    return result, [str(each.message) for each in caught]


class KeepNetwork(TrainingCallback):
    """Keeps the network that is trained."""

    network: nn.Module

    def on_network(self, network: nn.Module) -> None:
        self.network = network


def validated_on_training_rows(dataset: Dataset) -> Dataset:
    """Return a data set with enough validation rows to measure the inputs of inference on."""
    return replace(dataset, splits=replace(dataset.splits, validation=dataset.splits.train))


def plant(monkeypatch: pytest.MonkeyPatch, *, momentum: float | None = 0.1, dropout: float | None = None) -> None:
    """Give every network another momentum, or a dropout before each weight layer but the first."""

    def build_with_fault(architecture: Architecture) -> nn.Module:
        network = build(architecture)
        for module in network.modules():
            if isinstance(module, _BatchNorm):
                module.momentum = momentum
        layers = [module for module in network.modules() if hasattr(module, "weight_layer")]
        if dropout is not None:
            for layer in layers[1:]:
                layer.weight_layer = nn.Sequential(nn.Dropout(dropout), layer.weight_layer)  # type: ignore[assignment]
        return network

    for module in ("run", "checkpoint"):
        monkeypatch.setattr(f"normfold.models.training.{module}.build", build_with_fault)


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw nothing, which takes longer than these runs."""
    monkeypatch.setattr("normfold.models.training.train.draw_curves", lambda *_: None)
    monkeypatch.setattr("normfold.models.batchnorm.during_training.callback.draw_statistics", lambda *_: None)


@pytest.mark.slow
@pytest.mark.usefixtures("on_cpu")
def test_watched_run_has_the_weights_of_one_that_is_not(tmp_path: Path, make_run: MakeRun) -> None:
    config, dataset = make_run(epochs=3)
    plain = fit(config, dataset, tmp_path / "plain")
    keep = KeepNetwork()
    watched, _ = fit_watched(config, dataset, tmp_path / "watched", keep)
    assert not any(module._forward_pre_hooks for module in keep.network.modules())
    for name in ("weights.safetensors", "config.json", "resume/state.safetensors"):
        assert (watched.folder / name).read_bytes() == (plain.folder / name).read_bytes()
    assert {entry.name for entry in watched.folder.iterdir()} - {entry.name for entry in plain.folder.iterdir()} == {
        "batchnorm.jsonl",
        "batchnorm.png",
    }
    assert (watched.folder / "batchnorm.png").read_bytes().startswith(b"\x89PNG")
    records = read_statistics(watched.folder, 3)
    assert [record.epoch for record in records] == [1, 2, 3]
    assert [*records[0].layers] == ["stages.0.norm", "stages.2.norm"]
    assert records[2].layers["stages.0.norm"].batches == 9


@pytest.mark.slow
@pytest.mark.usefixtures("no_pictures")
def test_sound_run_is_not_warned_of(tmp_path: Path, make_run: MakeRun) -> None:
    config, dataset = make_run(epochs=12, batch_size=32, lr=0.001)
    assert fit_watched(config, validated_on_training_rows(dataset), tmp_path / "run")[1] == []


@pytest.mark.slow
@pytest.mark.usefixtures("no_pictures")
def test_planted_momentum_is_named(tmp_path: Path, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, momentum=0.001)
    (found,) = fit_watched(*make_run(epochs=12, batch_size=32, lr=0.001), tmp_path / "run")[1]
    assert "with momentum 0.001, the values from before the run still weigh" in found
    assert found.endswith("batchnorm.png in the run folder shows all layers.")


@pytest.mark.slow
@pytest.mark.usefixtures("no_pictures")
def test_planted_dropout_is_named(tmp_path: Path, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, dropout=0.5)
    config, dataset = make_run(epochs=12, batch_size=32, lr=0.001)
    (found,) = fit_watched(config, validated_on_training_rows(dataset), tmp_path / "run")[1]
    assert "(1 of 2 BatchNorms, most in 'stages.2.norm'), which was measured behind a dropout of p = 0.5" in found


@pytest.mark.slow
@pytest.mark.usefixtures("no_pictures")
def test_planted_small_batches_are_named(tmp_path: Path, make_run: MakeRun) -> None:
    (found,) = fit_watched(*make_run("mlp", {"widths": [16]}, epochs=6, batch_size=4, lr=0.001), tmp_path / "run")[1]
    assert "'blocks.0.norm'): a batch has 4 rows, and inference has none of this noise" in found


@pytest.mark.slow
@pytest.mark.usefixtures("no_pictures")
@pytest.mark.usefixtures("on_cpu")
def test_resumed_run_has_the_figures_of_an_uninterrupted_one(tmp_path: Path, make_run: MakeRun) -> None:
    config, dataset = make_run(epochs=4)
    whole, _ = fit_watched(config, dataset, tmp_path / "whole")
    broken = tmp_path / "broken"
    with pytest.raises(KeyboardInterrupt):
        fit_watched(config, dataset, broken, StopAfter(2))
    with (broken / STATISTICS_NAME).open("a") as file:
        file.write('{"epoch": 3, of an epoch that left no checkpoint')
    resumed, _ = fit_watched(config, dataset, broken, resume=True)
    assert (resumed.folder / STATISTICS_NAME).read_bytes() == (whole.folder / STATISTICS_NAME).read_bytes()


@pytest.mark.slow
@pytest.mark.usefixtures("no_pictures")
def test_run_whose_earlier_figures_are_gone_is_resumed(tmp_path: Path, make_run: MakeRun) -> None:
    config, dataset = make_run(epochs=3)
    with pytest.raises(KeyboardInterrupt):
        fit_watched(config, dataset, tmp_path / "run", StopAfter(2))
    (tmp_path / "run" / STATISTICS_NAME).unlink()
    result, _ = fit_watched(config, dataset, tmp_path / "run", resume=True)
    assert [record.epoch for record in read_statistics(result.folder, 3)] == [3]


def test_failed_run_leaves_no_figures(tmp_path: Path, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    config, dataset = make_run(epochs=2)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / STATISTICS_NAME).write_text("of a run that was killed\n")
    diverged = Result(float("nan"), 0.0)
    monkeypatch.setattr("normfold.models.training.train.train_one_epoch", lambda *_, **__: diverged)
    with pytest.raises(DivergedError):
        fit_watched(config, dataset, tmp_path / "run")
    assert not (tmp_path / "run" / STATISTICS_NAME).exists()


@pytest.mark.slow
@pytest.mark.usefixtures("no_pictures")
def test_network_without_batchnorm_has_no_file(tmp_path: Path, make_run: MakeRun) -> None:
    (tmp_path / f"{tmp_path.name}_plain.py").write_text(
        "from torch import nn\ndef net(classes): return nn.Sequential(nn.Flatten(), nn.Linear(36, classes))\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        result, found = fit_watched(*make_run(f"{tmp_path.name}_plain:net", epochs=1), tmp_path / "run")
    assert (found, (result.folder / STATISTICS_NAME).exists()) == ([], False)
