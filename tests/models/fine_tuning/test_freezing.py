"""Parameters that are frozen in all epochs, or in the first ones."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from normfold.models.errors import FreezingError
from normfold.models.fine_tuning.freezing import Freezing, plan_freezing
from normfold.models.training.callback import TrainingCallback
from normfold.models.training.checkpoint import load_config
from normfold.models.training.metrics import EpochMetrics
from normfold.models.training.resume import Progress
from normfold.models.training.train import fit
from normfold.models.weight_files.safetensors_file import read_safetensors
from tests.support.paths import ROOT
from tests.support.training import MakeRun, StopAfter

STAGES = {"widths": [4, 8], "blocks_per_stage": 1, "dropout": 0.2}


def network() -> nn.Module:
    layers = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(0.5), nn.BatchNorm2d(2, affine=False), nn.InstanceNorm2d(2)
    )
    return nn.ModuleDict({"body": layers, "head": nn.Linear(2, 3)})


def plan(net: nn.Module, patterns: Sequence[str], epochs: int | None = None, new: Sequence[str] = ()) -> Freezing:
    return plan_freezing(net, {}, patterns, epochs, new)


@pytest.mark.parametrize(
    ("patterns", "frozen", "batchnorms"),
    [
        (["body"], {"body.0.weight", "body.0.bias", "body.1.weight", "body.1.bias"}, ("body.1", "body.3")),
        (["body.*"], {"body.0.weight", "body.0.bias", "body.1.weight", "body.1.bias"}, ("body.1", "body.3")),
        (["*.1"], {"body.1.weight", "body.1.bias"}, ("body.1",)),
        (["body.0", "head.bias"], {"body.0.weight", "body.0.bias", "head.bias"}, ()),
        (["*.weight"], {"body.0.weight", "body.1.weight", "head.weight"}, ()),
    ],
)
def test_pattern_freezes_parameters_by_name_and_whole_layers_by_theirs(
    patterns: list[str], frozen: set[str], batchnorms: tuple[str, ...]
) -> None:
    net = network()
    found = plan(net, patterns)
    assert {name for name, one in net.named_parameters() if not one.requires_grad} == frozen
    assert found.batchnorms_in(1) == found.batchnorms_in(99) == batchnorms
    assert "body.2" not in found.always  # dropout goes on


def test_freezing_for_some_epochs_sets_gradients_and_layers_by_epoch() -> None:
    net = network()
    net["body"][0].bias.requires_grad_(False)  # by its factory: it stays so
    found = plan(net, ["body"], epochs=2)
    assert net["body"][0].weight.requires_grad
    for epoch in (1, 2, 3, 2):
        found.set_gradients(net, epoch)
        trained = {name for name, one in net.named_parameters() if one.requires_grad}
        more = {"body.0.weight", "body.1.weight", "body.1.bias"} if epoch == 3 else set()
        assert trained == {"head.weight", "head.bias"} | more
        assert found.batchnorms_in(epoch) == (() if epoch == 3 else ("body.1", "body.3"))


def test_epochs_alone_freeze_everything_but_the_new_head() -> None:
    found = plan(network(), [], epochs=1, new=["head.weight", "head.bias"])
    assert found.parameters == ("body.0.bias", "body.0.weight", "body.1.bias", "body.1.weight")
    with pytest.raises(FreezingError, match="and the network has none: name what is to be frozen with `freeze`"):
        plan(network(), [], epochs=1)


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (["heads"], r"`freeze` 'heads' fits no parameter, and no layer with one; parameters are 'body.0.weight'"),
        (["body", "body.2"], r"'body.2' fits no parameter"),
        (["*"], "Every parameter would be frozen"),
    ],
)
def test_pattern_that_fits_nothing_or_everything_is_an_error(patterns: list[str], message: str) -> None:
    with pytest.raises(FreezingError, match=message):
        plan(network(), patterns)


class States(TrainingCallback):
    """Keeps the state after each epoch."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.states = folder, [dict[str, Tensor]()]

    def on_epoch(self, metrics: EpochMetrics) -> None:  # noqa: ARG002 -- the base's
        tensors = read_safetensors(self.folder / "resume" / "state.safetensors")
        self.states.append({n.removeprefix("network."): t for n, t in tensors.items() if n.startswith("network.")})


@pytest.mark.slow
@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_stages_are_frozen_bit_for_bit_for_as_long_as_asked(tmp_path: Path, make_run: MakeRun, optimizer: str) -> None:
    seen = States(tmp_path / "run")
    config, dataset = make_run("convnet", STAGES, epochs=4, freeze=("stages",), freeze_epochs=2, optimizer=optimizer)
    result = fit(config, dataset, tmp_path / "run", callback=seen)
    stages = [name for name in seen.states[1] if name.startswith("stages.")]
    assert any("running_mean" in name for name in stages)
    assert all(torch.equal(seen.states[1][name], seen.states[2][name]) for name in stages)
    assert not any(torch.equal(seen.states[2][name], seen.states[3][name]) for name in stages)
    assert not torch.equal(seen.states[1]["classifier.weight"], seen.states[2]["classifier.weight"])
    in_best_epoch = load_config(tmp_path / "run").frozen_batchnorms
    assert bool(in_best_epoch) is (result.best_epoch <= 2)


@pytest.mark.slow
@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize("epoch", [2, 3])
def test_run_with_frozen_epochs_and_rates_by_layer_resumes_bit_for_bit(
    tmp_path: Path, make_run: MakeRun, epoch: int
) -> None:
    config, dataset = make_run("convnet", STAGES, epochs=4, freeze=("stages",), freeze_epochs=2, layer_decay=0.7)
    whole = fit(config, dataset, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        fit(config, dataset, tmp_path / "broken", callback=StopAfter(epoch))
    resumed = fit(config, dataset, tmp_path / "broken", resume=True)
    states = [read_safetensors(one.folder / "resume" / "state.safetensors") for one in (whole, resumed)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert (resumed.folder / "config.json").read_bytes() == (whole.folder / "config.json").read_bytes()


@pytest.mark.slow
def test_checkpoint_of_a_frozen_epoch_names_its_frozen_batchnorms(
    tmp_path: Path, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Recalibration at export leaves those alone, whatever was trained after the best epoch."""
    monkeypatch.setattr(Progress, "is_better", lambda progress, *_: progress.best_epoch == 0)
    config, dataset = make_run("convnet", STAGES, epochs=3, freeze=("stages",), freeze_epochs=2)
    result = fit(config, dataset, tmp_path / "run")
    assert (result.best_epoch, result.epochs) == (1, 3)
    assert result.config.frozen_batchnorms
    assert all(name.startswith("stages.") for name in result.config.frozen_batchnorms)
    assert load_config(tmp_path / "run") == result.config


SCRIPT = """
import hashlib, sys, warnings
from pathlib import Path
from normfold.models.data.data import DataConfig, load_dataset
from normfold.models.training import train
from normfold.models.training.checkpoint import make_run_config
from normfold.models.training.config import TrainConfig

runs = []
begin = train.begin_run
train.begin_run = lambda *given: runs.append(begin(*given)) or runs[-1]
warnings.simplefilter("ignore")
data = DataConfig(source=sys.argv[1])
dataset = load_dataset(data)
settings = TrainConfig(epochs=3, batch_size=64, freeze=("blocks",), freeze_epochs=1)
train.fit(make_run_config("mlp", {"widths": [8]}, data, dataset, settings), dataset, Path(sys.argv[2]))
weights = [one.detach().numpy().tobytes() for one in runs[0].network.parameters()]
print("weights", hashlib.sha256(b"".join(weights)).hexdigest())
"""


@pytest.mark.slow
def test_two_processes_have_the_same_weights_after_frozen_epochs(tmp_path: Path, images: Path) -> None:
    """Gradients of what was frozen are those of both processes as soon as it is trained."""
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
    done = subprocess.run(
        [*command, str(tmp_path / "script.py"), f"npz:{images}", str(tmp_path / "run")],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    digests = re.findall("weights ([0-9a-f]{64})", done.stdout)
    assert len(digests) == 2
    assert len(set(digests)) == 1
