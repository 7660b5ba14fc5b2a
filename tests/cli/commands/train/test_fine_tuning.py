"""Fine-tuning as a user meets it: from a checkpoint of Lightning to a served answer."""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor

from normfold.contract.manifest import read_manifest
from normfold.models.architectures.registry import Architecture, build
from normfold.models.training.checkpoint import load_checkpoint
from normfold.service.app import create_app
from normfold.service.settings import Settings
from tests.support.command import RunCommand, in_one_line
from tests.support.service import serve_app

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
CONVNET = ("--arch", "convnet", "--arg", "widths=[4,8]", "--arg", "blocks_per_stage=1")


@pytest.fixture
def pictures(tmp_path: Path) -> np.ndarray[Any, Any]:
    """160 pictures of two classes, in data.npz; every second one is bright on the left."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 128, (160, 1, 8, 8)).astype(np.uint8)
    x[::2, :, :, :4] += 100
    np.savez(tmp_path / "data.npz", x=x, y=np.arange(160) % 2, labels=["left", "none"])
    return x


@pytest.fixture
def lightning(tmp_path: Path) -> dict[str, Tensor]:
    """Write best.ckpt as Lightning does, of a network of ten classes; return the network's tensors."""
    torch.manual_seed(3)
    options = {"widths": [4, 8], "blocks_per_stage": 1}
    network = build(Architecture(name="convnet", options=options, input_shape=(1, 8, 8), classes=10)).train()
    for _ in range(20):
        network(torch.randn(32, 1, 8, 8) * 1.5 + 0.3)  # its statistics are those of other data
    tensors = {name: value.clone() for name, value in network.state_dict().items()}
    checkpoint = {
        "epoch": 11,
        "global_step": 2200,
        "pytorch-lightning_version": "2.4.0",
        "state_dict": {f"model.{name}": value for name, value in tensors.items()} | {"loss.weight": torch.ones(10)},
        "loops": {"fit_loop": {"state_dict": {}}},
        "callbacks": {"ModelCheckpoint{'monitor': 'loss'}": {"best_model_score": torch.tensor(0.25)}},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(4)}}, "param_groups": [{"lr": 0.1}]}],
        "lr_schedulers": [],
        "hparams_name": "kwargs",
        "hyper_parameters": argparse.Namespace(lr=0.1),
    }
    torch.save(checkpoint, tmp_path / "best.ckpt")
    torch.save({name: value for name, value in tensors.items() if "norm" not in name}, tmp_path / "other.pt")
    return tensors


@pytest.mark.slow
def test_network_of_lightning_is_fine_tuned_with_frozen_statistics_and_served(
    normfold: RunCommand, tmp_path: Path, pictures: np.ndarray[Any, Any], lightning: dict[str, Tensor]
) -> None:
    train = ("train", *CONVNET, "--data", "npz:data.npz", "--batch-size", "32", "--epochs", "8", "--out", "run")
    code, _, err = normfold(*train, "--weights", "best.ckpt", "--freeze-bn", "*", "--layer-decay", "0.8", "--json")
    assert code == 0, err
    notes = in_one_line(err)
    assert "names were loaded without their prefix 'model.'" in notes
    assert "not loaded, since the network has no such tensor: 'loss.weight'" in notes
    assert "tensors were taken from best.ckpt; new are 'classifier.weight', 'classifier.bias'." in notes

    trained = load_checkpoint(Path("run")).network.state_dict()
    of_statistics = [name for name in lightning if name.endswith(STATISTICS)]
    assert of_statistics
    assert all(torch.equal(trained[name], lightning[name]) for name in of_statistics)
    weights = [name for name in lightning if name.endswith("weight_layer.weight")]
    assert not any(torch.equal(trained[name], lightning[name]) for name in weights)  # only BatchNorm is frozen

    code, _, err = normfold("export", "run", "--name", "sides")
    assert code == 0, err
    bundle = tmp_path / "model_repository" / "sides" / "1"
    nodes = [node for node in onnx.load(bundle / "unfolded.onnx").graph.node if node.op_type == "BatchNormalization"]
    exported = {one.name: one for one in onnx.load(bundle / "unfolded.onnx").graph.initializer}
    means = [value for name, value in lightning.items() if name.endswith("running_mean")]
    variances = [value for name, value in lightning.items() if name.endswith("running_var")]
    assert len(nodes) == len(means)
    for node, mean, variance in zip(nodes, means, variances, strict=True):
        assert numpy_helper.to_array(exported[node.input[3]]).tobytes() == mean.numpy().tobytes()
        assert numpy_helper.to_array(exported[node.input[4]]).tobytes() == variance.numpy().tobytes()

    card = read_manifest(bundle / "manifest.json").card
    digest = hashlib.sha256((tmp_path / "best.ckpt").read_bytes()).hexdigest()
    assert card.initial_weights is not None
    assert (card.initial_weights.name, card.initial_weights.sha256) == ("best.ckpt", digest)
    assert f"starting from best.ckpt (sha256 {digest[:12]}…)" in card.origin
    assert card.running_statistics is None
    assert card.metrics["test_accuracy"] > 0.9

    settings = Settings(repository=tmp_path / "model_repository", provider="cpu")
    with serve_app(create_app(settings), settings) as service:
        service.wait_until_loaded()
        answer = service.client.post("/v1/models/sides:predict", json={"instances": pictures[:20, 0].tolist()})
    assert answer.status_code == 200
    labels = [one["label"] for one in answer.json()["predictions"]]
    assert np.mean([label == ("left", "none")[index % 2] for index, label in enumerate(labels)]) > 0.8


@pytest.mark.slow
@pytest.mark.usefixtures("pictures", "lightning")
def test_frozen_stages_are_recalibrated_neither_by_training_nor_by_export(
    normfold: RunCommand, lightning: dict[str, Tensor]
) -> None:
    train = ("train", *CONVNET, "--data", "npz:data.npz", "--batch-size", "32", "--epochs", "2", "--out", "run")
    assert normfold(*train, "--weights", "best.ckpt", "--freeze", "stages.0.w*", "--freeze", "stages.0.norm")[0] == 0
    frozen = json.loads(Path("run/config.json").read_text())["frozen_batchnorms"]
    assert frozen == ["stages.0.norm"]
    assert normfold("export", "run", "--name", "sides")[0] == 0
    graph = onnx.load("model_repository/sides/1/unfolded.onnx").graph
    exported = [numpy_helper.to_array(one).tobytes() for one in graph.initializer]
    trained = load_checkpoint(Path("run")).network.state_dict()
    for name, value in lightning.items():
        if name.startswith("stages.0."):
            assert torch.equal(trained[name], value)
            assert "tracked" in name or value.numpy().tobytes() in exported
        elif name.endswith("running_mean"):
            assert not torch.equal(trained[name], value)


@pytest.mark.slow
def test_run_starts_from_a_run_folder_and_goes_on_for_more_epochs(normfold: RunCommand, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name, classes in (("two", 2), ("three", 3)):
        y = np.arange(150) % classes
        np.savez(tmp_path / f"{name}.npz", x=rng.normal(size=(150, 4)) + 3 * y[:, None], y=y)
    first = ("--arch", "mlp", "--arg", "widths=[8]", "--data", "npz:two.npz", "--epochs", "1", "--out", "first")
    assert normfold("train", *first)[0] == 0
    code, out, err = normfold(
        *("train", "--weights", "first", "--data", "npz:three.npz", "--out", "second", "--epochs", "2", "--json"),
        *("--freeze-epochs", "1", "--arg", "dropout=0.1"),
    )
    assert code == 0, err
    assert json.loads(out)["arch"] == "mlp"
    assert json.loads(out)["data"] == "npz:three.npz"
    assert json.loads(Path("second/config.json").read_text())["architecture"]["options"] == {
        "widths": [8],
        "dropout": 0.1,
    }
    assert "new are 'classifier.weight', 'classifier.bias'" in in_one_line(err)
    code, out, err = normfold("train", "--out", "second", "--resume", "--epochs", "4", "--json")
    assert code == 0, err
    assert json.loads(out)["epochs"] == 4
    assert "The learning rate begins a new schedule, from epoch 3 to 4." in in_one_line(err)


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--weights", "none.pt"], 2, "'none.pt' cannot be read: No such file or directory."),
        (["--weights", "."], 2, "'.' is a folder without weights; it has none of weights.safetensors"),
        (["--weights", "other.pt"], 2, "'other.pt' lacks tensor 'stages.0.norm.weight'"),
        (["--weights", "other.pt"], 2, "is it of another network? --partial loads"),
        (["--weights", "best.ckpt", "--weights-key", "ema"], 2, "has no state dict 'ema'; it has 'state_dict'"),
        (["--weights", "best.ckpt", "--strip-prefix", "net."], 2, "has no tensor with the prefix 'net.'"),
        (["--weights-key", "ema"], 2, "--weights-key is for --weights, and none are given."),
        (["--partial"], 2, "--partial is for --weights, and none are given."),
        (["--freeze", "backbone"], 2, "--freeze 'backbone' fits no parameter"),
        (["--freeze", "*"], 2, "Every parameter would be frozen, so that nothing is trained; change --freeze."),
        (["--freeze-epochs", "2"], 2, "--freeze-epochs alone freezes everything but a new head"),
        (["--freeze-epochs", "0"], 2, "--freeze-epochs must be greater than 0, not 0."),
        (["--layer-decay", "1.5"], 2, "--layer-decay must be less than or equal to 1, not 1.5."),
    ],
)
@pytest.mark.usefixtures("pictures", "lightning")
def test_wrong_option_of_fine_tuning_is_one_sentence_and_writes_nothing(
    normfold: RunCommand, options: list[str], code: int, message: str
) -> None:
    found, _, err = normfold("train", *CONVNET, "--data", "npz:data.npz", "--out", "run", "--epochs", "1", *options)
    errors = [line for line in err.splitlines() if not line.startswith("warning: ")]
    assert (found, len(errors)) == (code, 1), err
    assert message in errors[0]
    assert not Path("run").exists()
