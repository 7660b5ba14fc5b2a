from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from normfold.models.architectures.registry import build
from normfold.models.data.data import DataConfig, load_dataset
from normfold.models.errors import (
    ArchitectureError,
    DivergedError,
    PrecisionError,
    RunFolderError,
    TrainingWarning,
    UnmeasurableError,
)
from normfold.models.tasks.classification import Classification
from normfold.models.tasks.segmentation import Segmentation, mean_iou
from normfold.models.training.checkpoint import load_checkpoint, make_run_config
from normfold.models.training.config import TrainConfig
from normfold.models.training.distributed import synchronise_batchnorms
from normfold.models.training.evaluate import evaluate
from normfold.models.training.train import fit
from tests.support.paths import ROOT
from tests.support.training import MakeRun, StopAfter

FILES = {"weights.safetensors", "config.json", "metrics.jsonl", "curves.png", "resume"}


def read_lines(folder: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        del line["seconds"]
    return lines


@pytest.mark.slow
def test_run_learns_and_writes_all_files(tmp_path: Path, make_run: MakeRun) -> None:
    config, dataset = make_run(epochs=8)
    result = fit(config, dataset, tmp_path / "run")
    assert {entry.name for entry in (tmp_path / "run").iterdir()} == FILES
    assert result.metrics["test_accuracy"] > 0.9
    assert [line["epoch"] for line in read_lines(result.folder)] == list(range(1, 9))
    assert (result.folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    loaded = load_checkpoint(result.folder)
    assert loaded.config == result.config
    x = torch.from_numpy(dataset.tensors(dataset.splits.test))
    measured = evaluate(loaded.network, x, torch.from_numpy(dataset.y[dataset.splits.test]), Classification())
    assert measured.metrics["accuracy"] == result.metrics["test_accuracy"]


@pytest.mark.slow
@pytest.mark.usefixtures("on_cpu")
def test_checkpoint_is_that_of_the_best_validation_epoch(tmp_path: Path, make_run: MakeRun) -> None:
    config, dataset = make_run(epochs=6, lr=0.3)
    result = fit(config, dataset, tmp_path / "run")
    lines = read_lines(result.folder)
    best = max(lines, key=lambda line: (line["validation_accuracy"], -line["validation_loss"]))
    assert result.best_epoch == best["epoch"]
    assert result.metrics["validation_accuracy"] == best["validation_accuracy"]
    assert result.metrics["validation_loss"] == pytest.approx(best["validation_loss"], rel=1e-12)


@pytest.mark.slow
@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize("settings", [{"optimizer": "adamw"}, {"optimizer": "sgd", "clip_norm": 1.0}])
@pytest.mark.parametrize("epoch", [0, 2])
def test_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(
    tmp_path: Path, make_run: MakeRun, settings: dict[str, object], epoch: int
) -> None:
    config, dataset = make_run(epochs=4, **settings)
    whole = fit(config, dataset, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        fit(config, dataset, tmp_path / "broken", callback=StopAfter(epoch))
    with (tmp_path / "broken" / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 99, of an epoch that left no checkpoint')
    torch.manual_seed(123)  # whatever happened between
    resumed = fit(config, dataset, tmp_path / "broken", resume=True)
    for name in ("weights.safetensors", "config.json"):
        assert (resumed.folder / name).read_bytes() == (whole.folder / name).read_bytes()
    states = [torch_state(result.folder) for result in (whole, resumed)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert read_lines(resumed.folder) == read_lines(whole.folder)


def torch_state(folder: Path) -> dict[str, torch.Tensor]:
    from normfold.models.weight_files.safetensors_file import read_safetensors

    return read_safetensors(folder / "resume" / "state.safetensors")


@pytest.mark.slow
def test_weights_depend_on_the_seed(tmp_path: Path, make_run: MakeRun) -> None:
    for seed in (0, 1):
        config, dataset = make_run(epochs=1, seed=seed)
        fit(config, dataset, tmp_path / str(seed))
    weights = [(tmp_path / str(seed) / "weights.safetensors").read_bytes() for seed in (0, 1)]
    assert weights[0] != weights[1]


@pytest.mark.slow
def test_resuming_a_finished_run_returns_its_result(tmp_path: Path, make_run: MakeRun) -> None:
    config, dataset = make_run(epochs=2)
    first = fit(config, dataset, tmp_path / "run")
    again = fit(config, dataset, tmp_path / "run", resume=True)
    assert (again.epochs, again.metrics) == (first.epochs, first.metrics)


@pytest.mark.slow
def test_run_folder_is_not_overwritten_and_not_resumed_with_other_settings(tmp_path: Path, make_run: MakeRun) -> None:
    config, dataset = make_run(epochs=1)
    folder = tmp_path / "run"
    with pytest.raises(RunFolderError, match="holds no run to resume"):
        fit(config, dataset, folder, resume=True)
    assert not folder.exists()
    fit(config, dataset, folder)
    before = (folder / "weights.safetensors").read_bytes()
    with pytest.raises(RunFolderError, match="holds a run already; resume it with `resume`"):
        fit(config, dataset, folder)
    with pytest.raises(RunFolderError, match="was trained with seed=0, not 7"):
        fit(make_run(epochs=1, seed=7)[0], dataset, folder, resume=True)
    with pytest.raises(RunFolderError, match="was trained with name='convnet', not 'mlp'"):
        fit(make_run("mlp", epochs=1)[0], dataset, folder, resume=True)
    assert (folder / "weights.safetensors").read_bytes() == before
    metrics = (folder / "metrics.jsonl").read_bytes()
    (folder / "metrics.jsonl").write_bytes(b"\xff" + metrics)
    with pytest.raises(RunFolderError, match="holds a damaged metrics.jsonl"):
        fit(config, dataset, folder, resume=True)
    (folder / "metrics.jsonl").write_bytes(metrics)
    state = folder / "resume" / "state.safetensors"
    state.write_bytes(state.read_bytes()[:-5])
    with pytest.raises(RunFolderError, match="holds a damaged resume/state.safetensors"):
        fit(config, dataset, folder, resume=True)


@pytest.mark.slow
@pytest.mark.usefixtures("on_cpu")
def test_run_ends_when_patience_is_exhausted(tmp_path: Path, make_run: MakeRun) -> None:
    config, dataset = make_run(epochs=50, patience=2, lr=1e-9)
    result = fit(config, dataset, tmp_path / "run")
    assert result.epochs < 50
    assert result.epochs - result.best_epoch == 2
    best = read_lines(result.folder)[result.best_epoch - 1]  # the checkpoint is of that epoch, not of the last one
    assert result.metrics["validation_loss"] == pytest.approx(best["validation_loss"], rel=1e-12)
    assert load_checkpoint(result.folder).config.epoch == result.best_epoch


@pytest.mark.slow
def test_diverging_run_stops_with_advice_and_can_be_started_again(tmp_path: Path, make_run: MakeRun) -> None:
    config, dataset = make_run("mlp", epochs=2, optimizer="sgd", lr=1e30)
    with pytest.raises(DivergedError, match=r"became (nan|inf) in epoch 1; try a lower `lr` \(it was 1e\+30\)"):
        fit(config, dataset, tmp_path / "run")
    fit(make_run("mlp", epochs=1)[0], dataset, tmp_path / "run")


CUBES = """
from torch import nn

class Cubes(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.linear = nn.Linear(36, classes)

    def forward(self, x):
        return self.linear(x.flatten(1)) ** 3
"""


@pytest.mark.slow
def test_infinite_test_loss_raises_and_the_folder_stays_readable(
    tmp_path: Path, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f"cubes_{tmp_path.name}.py").write_text(CUBES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    config, dataset = make_run(f"cubes_{tmp_path.name}:Cubes", epochs=2)
    dataset.x[dataset.splits.test[0]] = 1e15  # finite, and its cube is not
    for resume in (False, True):
        with pytest.raises(UnmeasurableError, match="The loss on the test split is (nan|inf): look for extreme values"):
            fit(config, dataset, tmp_path / "run", resume=resume)
        assert set(load_checkpoint(tmp_path / "run").config.card.metrics) == {"validation_loss", "validation_accuracy"}


@pytest.mark.slow
def test_small_batches_warn(tmp_path: Path, make_run: MakeRun) -> None:
    config, dataset = make_run(epochs=1, batch_size=16)
    with pytest.warns(TrainingWarning, match="16 rows: with fewer than 32"):
        fit(config, dataset, tmp_path / "run")


def test_fp16_without_gpu_is_refused(tmp_path: Path, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.accelerator.is_available", lambda: False)
    config, dataset = make_run(precision="fp16")
    with pytest.raises(PrecisionError, match="'fp16' needs a GPU"):
        fit(config, dataset, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_precision_has_the_names_of_other_commands_too() -> None:
    for name, short in (("float32", "fp32"), ("bfloat16", "bf16"), ("float16", "fp16"), ("fp16", "fp16")):
        assert TrainConfig.model_validate({"precision": name}).precision == short
    with pytest.raises(ValidationError, match="precision"):
        TrainConfig.model_validate({"precision": "int8"})


@pytest.mark.slow
def test_mixed_precision_keeps_fp32_weights(tmp_path: Path, make_run: MakeRun) -> None:
    config, dataset = make_run(epochs=2, precision="bf16")
    with pytest.raises(KeyboardInterrupt):
        fit(config, dataset, tmp_path / "run", callback=StopAfter(1))
    result = fit(config, dataset, tmp_path / "run", resume=True)
    floats = [t for t in load_checkpoint(result.folder).network.state_dict().values() if t.is_floating_point()]
    assert all(tensor.dtype == torch.float32 for tensor in floats)
    fp32 = fit(make_run(epochs=2)[0], dataset, tmp_path / "fp32")
    assert result.metrics["test_loss"] != fp32.metrics["test_loss"]


def test_network_without_logits_is_refused_before_training(
    tmp_path: Path, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f"odd_{tmp_path.name}.py").write_text(
        "from torch import nn\n"
        "def wide(): return nn.Sequential(nn.Flatten(), nn.Linear(36, 7))\n"
        "def rows(): return nn.Linear(5, 3)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for factory, message in (("wide", r"returns \[2, 7\] for 2 samples"), ("rows", "does not take samples of shape")):
        config, dataset = make_run(f"odd_{tmp_path.name}:{factory}")
        with pytest.raises(ArchitectureError, match=message):
            fit(config, dataset, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_evaluation_is_in_eval_mode_and_restores_the_mode() -> None:
    network = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(4), nn.Linear(4, 2)).train()
    x, y = torch.randn(10, 4), torch.arange(10) % 2
    before = network[1].running_mean.clone()
    result = evaluate(network, x, y, Classification())
    assert network.training
    assert torch.equal(network[1].running_mean, before)
    logits = network.eval()(x)
    assert result.metrics["accuracy"] == (logits.argmax(1) == y).double().mean().item()
    assert result.loss == pytest.approx(nn.functional.cross_entropy(logits, y).item(), rel=1e-6)


def test_batchnorms_are_synchronised_over_gpus_and_keep_their_names(make_run: MakeRun) -> None:
    config, _ = make_run()
    network = build(config.architecture)
    names = list(network.state_dict())
    gpus = SimpleNamespace(num_processes=2, device=torch.device("cuda"))
    synchronised = synchronise_batchnorms(network, config.train, gpus)
    norms = [module for module in synchronised.modules() if isinstance(module, _BatchNorm)]
    assert norms
    assert all(isinstance(norm, nn.SyncBatchNorm) for norm in norms)
    assert list(synchronised.state_dict()) == names


SCRIPT = """
import sys, warnings
from pathlib import Path
from normfold.models.tasks.classification import Classification
from normfold.models.tasks.segmentation import Segmentation, mean_iou
from normfold.models.training.checkpoint import make_run_config
from normfold.models.data.data import DataConfig, load_dataset
from normfold.models.training.train import fit
from normfold.models.training.config import TrainConfig

data = DataConfig(source=sys.argv[1])
dataset = load_dataset(data)
config = make_run_config("mlp", {"widths": [8]}, data, dataset, TrainConfig(epochs=2, batch_size=64))
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    result = fit(config, dataset, Path(sys.argv[2]))
print("unsynchronised", any("each of 2 processes" in str(warning.message) for warning in caught))
"""


@pytest.mark.slow
def test_two_processes_train_one_network(tmp_path: Path, images: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    root = ROOT
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
    done = subprocess.run(
        [*command, str(tmp_path / "script.py"), f"npz:{images}", str(tmp_path / "run")],
        env=os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("unsynchronised True") == 2
    assert len(read_lines(tmp_path / "run")) == 2
    load_checkpoint(tmp_path / "run")


def test_mean_iou_is_over_the_classes_that_occur() -> None:
    confusion = torch.tensor([[5, 2, 0, 0], [1, 3, 0, 0], [0, 0, 0, 0], [0, 1, 0, 0]])
    expected = (5 / 8 + 3 / 7 + 0) / 3  # the third class neither occurs nor was predicted
    assert mean_iou(confusion) == pytest.approx(expected, rel=1e-12)
    assert mean_iou(torch.diag(torch.tensor([4, 0, 9]))) == 1


def test_evaluation_of_masks_does_not_depend_on_the_batch_size(monkeypatch: pytest.MonkeyPatch) -> None:
    network = nn.Conv2d(1, 3, 1)
    x, y = torch.randn(10, 1, 4, 5), torch.randint(3, (10, 4, 5))
    predicted = network(x).argmax(1)
    ious = [
        ((predicted == c) & (y == c)).sum().item() / ((predicted == c) | (y == c)).sum().item()
        for c in range(3)
        if ((predicted == c) | (y == c)).any()
    ]
    whole = evaluate(network, x, y, Segmentation())
    assert whole.metrics["accuracy"] == (predicted == y).double().mean().item()
    assert whole.loss == pytest.approx(nn.functional.cross_entropy(network(x), y).item(), rel=1e-5)
    assert whole.metrics["mean_iou"] == pytest.approx(sum(ious) / len(ious), rel=1e-12)
    monkeypatch.setattr("normfold.models.training.evaluate.MAX_VALUES", 3 * 20)
    split = evaluate(network, x, y, Segmentation())
    assert split.metrics == whole.metrics
    assert split.loss == pytest.approx(whole.loss, rel=1e-6)


@pytest.mark.slow
def test_run_on_masks_records_mean_iou_and_resumes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, (40, 4, 4))
    np.savez(tmp_path / "masks.npz", x=(y + rng.uniform(0, 0.5, y.shape)).astype(np.float32), y=y)
    data = DataConfig(source=f"npz:{tmp_path / 'masks.npz'}")
    dataset = load_dataset(data)
    settings = TrainConfig(epochs=3, batch_size=32)
    config = make_run_config("unet", {"widths": [4], "dropout": 0.1}, data, dataset, settings)
    whole = fit(config, dataset, tmp_path / "whole")
    assert set(whole.metrics) == {
        f"{split}_{name}" for split in ("validation", "test") for name in ("loss", "accuracy", "mean_iou")
    }
    assert read_lines(whole.folder)[whole.best_epoch - 1]["validation_mean_iou"] == whole.metrics["validation_mean_iou"]
    with pytest.raises(KeyboardInterrupt):
        fit(config, dataset, tmp_path / "broken", callback=StopAfter(1))
    fit(config, dataset, tmp_path / "broken", resume=True)
    for name in ("weights.safetensors", "config.json"):
        assert (tmp_path / "broken" / name).read_bytes() == (whole.folder / name).read_bytes()


@pytest.mark.slow
def test_run_on_classes_records_no_mean_iou(tmp_path: Path, make_run: MakeRun) -> None:
    result = fit(*make_run(epochs=1), tmp_path / "run")
    assert "validation_mean_iou" not in read_lines(result.folder)[0]
    assert not [name for name in result.metrics if "iou" in name]
