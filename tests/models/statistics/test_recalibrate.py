"""Recalibration against the definition of the statistics, computed in float64."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from normfold.models.architectures.blocks import ConvBatchNorm, LinearBatchNorm
from normfold.models.architectures.registry import Architecture, build
from normfold.models.batchnorm.recalibrate_run import recalibrate_run
from normfold.models.errors import StatisticsError
from normfold.models.statistics.recalibrate import Moments, recalibrate
from normfold.models.tasks.task import allowed_fall
from normfold.models.training.checkpoint import load_checkpoint, save_checkpoint
from normfold.models.training.train import fit
from tests.support.training import MakeRun


class Residual(nn.Module):
    """Two branches, one with Dropout; a norm that is called twice, and one that is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.BatchNorm2d(3)
        self.first = ConvBatchNorm(1, 3)
        self.dropout = nn.Dropout(0.5)
        self.twice = ConvBatchNorm(3, 3)
        self.head = LinearBatchNorm(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = x + self.twice(self.dropout(self.twice(x)))
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


def inputs_of(network: nn.Module, layer: nn.Module, x: Tensor) -> Tensor:
    """Return all that a layer gets, of every call: (C, number of values), in float64."""
    seen: list[Tensor] = []
    handle = layer.register_forward_pre_hook(lambda _, args: seen.append(args[0].double().transpose(0, 1).flatten(1)))
    with torch.no_grad():
        network(x)
    handle.remove()
    return torch.cat(seen, dim=1)


@pytest.fixture
def rows() -> Tensor:
    torch.manual_seed(0)
    return torch.randn(101, 1, 5, 5) * 3 + 7


@pytest.mark.slow
def test_moments_of_unequal_batches_are_those_of_all_values() -> None:
    torch.manual_seed(0)
    x = torch.randn(11, 2, 3) + 1e4  # far from zero: sums of squares that are not centred would lose all digits
    moments = Moments()
    for part in x.split([5, 1, 5]):
        moments.add(part)
    wanted = x.double().transpose(0, 1).flatten(1)
    torch.testing.assert_close(moments.mean, wanted.mean(1), rtol=1e-14, atol=0)
    torch.testing.assert_close(moments.variance, wanted.var(1, correction=0), rtol=1e-9, atol=0)


@pytest.mark.parametrize("at_once", [2**25, 700])  # values: all rows together, and batches of nine
def test_recalibrated_statistics_are_those_of_the_inputs_of_each_called_layer(
    rows: Tensor, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("normfold.models.statistics.recalibrate.MAX_VALUES", at_once)
    network = Residual().train()
    differences = recalibrate(network, rows)
    assert not network.training
    assert [difference.layer for difference in differences] == ["first.norm", "twice.norm", "head.norm"]
    for name in ("first.norm", "head.norm"):
        layer = network.get_submodule(name)
        values = inputs_of(network, layer, rows)
        torch.testing.assert_close(layer.running_mean.double(), values.mean(1), rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(layer.running_var.double(), values.var(1, correction=0), rtol=1e-5, atol=0)
        assert layer.num_batches_tracked == 0
    assert not network.unused.running_mean.any()


def test_batchnorm_called_twice_gets_the_statistics_of_both_calls(rows: Tensor) -> None:
    network = Residual().eval()
    recalibrate(network, rows)
    nn.init.normal_(network.twice.norm.running_mean)
    wanted = inputs_of(network, network.twice.norm, rows)
    assert wanted.shape[1] == 2 * 101 * 25
    recalibrate(network, rows)
    torch.testing.assert_close(network.twice.norm.running_mean.double(), wanted.mean(1), rtol=1e-6, atol=1e-6)


def test_difference_is_in_old_standard_deviations_and_zero_after_recalibration(rows: Tensor) -> None:
    network = nn.Sequential(ConvBatchNorm(1, 2), nn.Flatten(), nn.Linear(50, 2)).eval()
    recalibrate(network, rows)
    norm = network[0].norm
    std = torch.sqrt(norm.running_var + norm.eps)
    norm.running_mean -= 3 * std
    (difference,) = recalibrate(network, rows)
    np.testing.assert_allclose(difference.mean_difference, 3, rtol=1e-5)
    np.testing.assert_allclose(difference.variance_ratio, 1, rtol=1e-5)
    (again,) = recalibrate(network, rows)
    assert np.abs(again.mean_difference).max() < 1e-6


class Fickle(nn.Module):
    """Calls its norm for an even number of rows alone."""

    def __init__(self) -> None:
        super().__init__()
        self.block = ConvBatchNorm(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        return x if len(x) % 2 else self.block(x)  # type: ignore[no-any-return]


def test_layer_that_only_some_batches_call_is_named(rows: Tensor) -> None:
    with pytest.raises(StatisticsError, match="'block.norm' cannot be recalibrated: it is called for some batches and"):
        recalibrate(Fickle(), rows)


def test_recalibrated_statistics_do_not_depend_on_the_batch_size(rows: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    together, apart = Residual(), Residual()
    apart.load_state_dict(together.state_dict())
    one = recalibrate(together, rows)
    monkeypatch.setattr("normfold.models.statistics.recalibrate.MAX_VALUES", 300)
    many = recalibrate(apart, rows)
    for first, second in zip(one, many, strict=True):
        np.testing.assert_allclose(first.mean_difference, second.mean_difference, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(first.variance_ratio, second.variance_ratio, rtol=1e-5)


def test_layer_with_inputs_that_are_not_finite_is_named(rows: Tensor) -> None:
    network = Residual()
    nn.init.constant_(network.twice.weight_layer.weight, float("inf"))
    with pytest.raises(
        StatisticsError, match="of BatchNorm 'twice.norm' cannot be recalibrated: it gets values that are"
    ) as caught:
        recalibrate(network, rows)
    assert caught.value.layer == "twice.norm"


@pytest.mark.parametrize(
    ("accuracy", "rows_", "fall"), [(1.0, 100, 0.015), (0.5, 100, 0.05), (0.9, 10_000, 0.003), (0.0, 10, 0.15)]
)
def test_allowed_fall_is_one_row_or_one_standard_error(accuracy: float, rows_: int, fall: float) -> None:
    assert allowed_fall(accuracy, rows_) == pytest.approx(fall)


@pytest.fixture
def run(tmp_path: Path, make_run: MakeRun) -> Path:
    config, dataset = make_run(epochs=8)
    return fit(config, dataset, tmp_path / "run").folder


def spoil(run: Path, change: Callable[[nn.Module], None]) -> None:
    checkpoint = load_checkpoint(run)
    change(checkpoint.network)
    save_checkpoint(run, checkpoint.network, checkpoint.config)


def forget(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()


@pytest.mark.slow
def test_lost_statistics_are_restored_and_recorded_in_the_card(run: Path) -> None:
    accuracy = load_checkpoint(run).config.card.metrics["test_accuracy"]
    assert accuracy > 0.9
    spoil(run, forget)
    files = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}

    found = recalibrate_run(run)

    assert found.note is None
    record = found.record
    assert record is not None
    assert (record.samples, record.taken) == (84, True)
    assert record.accuracy_before["validation"] < 0.8 < record.accuracy_after["validation"]
    assert [layer.layer for layer in record.layers] == ["stages.0.norm", "stages.2.norm"]
    assert all(layer.variance_ratio is not None and layer.variance_ratio[0] > 0 for layer in record.layers)
    card = found.checkpoint.config.card
    assert card.running_statistics == record
    assert card.metrics["test_accuracy"] == record.accuracy_after["test"] > 0.9
    assert files == {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}


@pytest.mark.slow
def test_statistics_that_are_not_finite_are_replaced_and_recorded_as_null(run: Path) -> None:
    spoil(run, lambda network: network.stages[0].norm.running_var.fill_(float("nan")))
    record = recalibrate_run(run).record
    assert record is not None
    assert record.taken
    assert (record.layers[0].mean_shift, record.layers[0].variance_ratio) == (None, None)
    assert record.accuracy_after["test"] > 0.9


@pytest.mark.slow
def test_recalibration_that_lowers_accuracy_is_not_used(run: Path) -> None:
    def silence(network: nn.Module) -> None:
        """Give half of the channels a variance that mutes them, and a scale that is wrong once they are heard."""
        norm = network.stages[2].norm
        norm.running_var[4:] = 1e12
        norm.weight.data[4:] *= -10

    spoil(run, silence)
    trained = load_checkpoint(run)

    found = recalibrate_run(run)

    record = found.record
    assert record is not None
    assert record.accuracy_after["validation"] < record.accuracy_before["validation"] - 0.15
    assert not record.taken
    assert found.note == "recalibration lowers validation accuracy"
    assert found.checkpoint.config.card.metrics == trained.config.card.metrics
    assert found.checkpoint.config.card.running_statistics == record
    for name, tensor in trained.network.state_dict().items():
        assert torch.equal(found.checkpoint.network.state_dict()[name], tensor)


@pytest.mark.slow
def test_statistics_of_training_remain_without_the_training_data(run: Path, images: Path) -> None:
    with np.load(images) as arrays:
        found = dict(arrays)
    np.savez(images, **{**found, "x": found["x"] + 1})
    changed = recalibrate_run(run)
    assert changed.record is None
    assert changed.note == f"The data 'npz:{images}' have changed since the training"
    images.unlink()
    gone = recalibrate_run(run)
    assert gone.record is None
    assert gone.note is not None
    assert "cannot be read" in gone.note


def test_network_without_batchnorm_is_not_recalibrated(tmp_path: Path, make_run: MakeRun) -> None:
    config, _ = make_run()
    (tmp_path / "plain_net.py").write_text(
        "from torch import nn\ndef net(classes): return nn.Sequential(nn.Flatten(), nn.Linear(36, classes))\n"
    )
    architecture = Architecture(name=f"{tmp_path.name}_none:net", input_shape=(1, 6, 6), classes=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        (tmp_path / "plain_net.py").rename(tmp_path / f"{tmp_path.name}_none.py")
        save_checkpoint(tmp_path / "run", build(architecture), config.model_copy(update={"architecture": architecture}))
        found = recalibrate_run(tmp_path / "run")
    assert (found.record, found.note) == (None, "the network has no BatchNorm")
