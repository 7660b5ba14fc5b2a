"""Layers that stay as they are while the rest of a network is trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from normfold.models.batchnorm.recalibrate_run import recalibrate_run
from normfold.models.errors import ArchitectureError
from normfold.models.frozen import freeze_batchnorms, frozen_layers
from normfold.models.training.checkpoint import load_checkpoint
from normfold.models.training.train import fit
from tests.support.training import MakeRun, StopAfter

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


class Network(nn.Module):
    """Two BatchNorms, of which the first has statistics of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        self.head = nn.Sequential(nn.Linear(4, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
        norm = self.backbone[1]
        assert isinstance(norm, nn.BatchNorm2d)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        nn.init.constant_(norm.running_mean, 0.25)
        nn.init.constant_(norm.running_var, 4.0)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.backbone(x))
        return out


def train_all() -> Network:
    return Network()


def backbone_in_eval_mode() -> Network:
    network = Network()
    network.backbone.eval().requires_grad_(False)
    return network


def all_in_eval_mode_and_backbone_without_gradient() -> Network:
    network = Network()
    network.backbone.requires_grad_(False)
    return network.eval()


def all_in_eval_mode() -> Network:
    return Network().eval()


def train(make_run: MakeRun, folder: Path, factory: Callable[[], Network], **settings: object) -> dict[str, Tensor]:
    """Train for an epoch; return the tensors of the checkpoint."""
    config, dataset = make_run(f"{__name__}:{factory.__name__}", epochs=1, **settings)
    fit(config, dataset, folder)
    return load_checkpoint(folder).network.state_dict()


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a factory be imported by the name of this module, which pytest gives it."""
    import sys

    monkeypatch.setitem(sys.modules, __name__, sys.modules.get(__name__) or _this())


def _this() -> object:
    import types

    module = types.ModuleType(__name__)
    module.__dict__.update(globals())
    return module


@pytest.mark.slow
@pytest.mark.parametrize(
    ("factory", "pattern", "frozen"),
    [
        (train_all, None, ()),
        (all_in_eval_mode, None, ()),
        (backbone_in_eval_mode, None, ("backbone.1",)),
        (all_in_eval_mode_and_backbone_without_gradient, None, ("backbone.1",)),
        (train_all, "backbone.*", ("backbone.1",)),
        (train_all, "*", ("backbone.1", "head.1")),
    ],
)
def test_frozen_batchnorm_keeps_its_statistics_in_training_and_recalibration(
    tmp_path: Path, make_run: MakeRun, factory: Callable[[], Network], pattern: str | None, frozen: tuple[str, ...]
) -> None:
    before = Network().state_dict()
    after = train(make_run, tmp_path / "run", factory, freeze_bn=pattern)
    run = recalibrate_run(tmp_path / "run")
    exported = run.checkpoint.network.state_dict()
    assert run.checkpoint.config.frozen_batchnorms == frozen
    for layer in ("backbone.1", "head.1"):
        is_frozen = layer in frozen
        names = [f"{layer}.{name}" for name in STATISTICS]
        assert all(torch.equal(before[name], after[name]) for name in names) is is_frozen
        assert all(torch.equal(before[name], exported[name]) for name in names) is is_frozen
        if is_frozen:
            assert all(torch.equal(before[f"{layer}.{name}"], after[f"{layer}.{name}"]) for name in ("weight", "bias"))
    assert (run.note == "every BatchNorm was frozen in training") is (len(frozen) == 2)


@pytest.mark.slow
def test_resumed_run_keeps_layers_frozen(tmp_path: Path, make_run: MakeRun) -> None:
    config, dataset = make_run("mlp", {"widths": [8]}, epochs=2, freeze_bn="*")
    with pytest.raises(KeyboardInterrupt):
        fit(config, dataset, tmp_path / "run", callback=StopAfter(1))
    fit(config, dataset, tmp_path / "run", resume=True)
    tensors = load_checkpoint(tmp_path / "run").network.state_dict()
    means = [value for name, value in tensors.items() if name.endswith("running_mean")]
    assert means
    assert not any(mean.any() for mean in means)


def test_layers_in_eval_mode_stay_so_whatever_they_are() -> None:
    network = backbone_in_eval_mode()
    assert set(frozen_layers(network)) == {"backbone", *(f"backbone.{index}" for index in range(5))}


def test_pattern_without_a_batchnorm_is_an_error() -> None:
    with pytest.raises(ArchitectureError, match=r"No BatchNorm has a name like 'x\.\*'; the network has 'backbone.1'"):
        freeze_batchnorms(Network(), "x.*")
