"""Networks of ours from torch through the fold; those with data of a kind of their own from training to an answer."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from normfold.contract.manifest import read_manifest
from normfold.export.bundle.export import export_bundle
from normfold.export.errors import UnfoldError
from normfold.export.files.fold_file import FoldedFile, fold_file
from normfold.export.unfold.unfold import unfold_bundle, unfold_file
from normfold.models.architectures.registry import Architecture, build
from normfold.models.batchnorm.recalibrate_run import recalibrate_run
from normfold.models.onnx.to_onnx import InputSpec, to_onnx
from normfold.service.app import create_app
from normfold.service.settings import Settings
from tests.support.command import RunCommand
from tests.support.infer_bodies import png_of
from tests.support.onnx_models import assert_same_weights
from tests.support.service import serve_app

PICTURE, SEQUENCE = (1, 8, 8), (3, 16)
BENDS, READ_ELSEWHERE = "non-linear/non-linear", "other-readers/non-linear"


def trained_like(name: str, shape: tuple[int, ...], **options: Any) -> nn.Module:
    """Build a network with statistics, scales and shifts as after training, in eval mode."""
    torch.manual_seed(0)
    network = build(Architecture(name=name, input_shape=shape, classes=5, options=options)).eval()
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.1, 2)
    return network


def fold_network(folder: Path, name: str, shape: tuple[int, ...], **options: Any) -> tuple[FoldedFile, Counter[str]]:
    """Export a network, fold it and prove it; return that, and the operators that are left."""
    written = to_onnx(trained_like(name, shape, **options), folder / "unfolded.onnx", {"input": InputSpec(shape)})
    folded = fold_file(written.path, folder / "folded.onnx")
    assert folded.verification is not None
    assert folded.verification.passes
    assert folded.report.batchnorm_before == written.batchnorm
    operators = Counter(node.op_type for node in onnx.load(folder / "folded.onnx").graph.node)
    assert operators["BatchNormalization"] == folded.report.batchnorm_after
    return folded, operators


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "shape", "before", "left"),
    [
        ("mobilenet", PICTURE, 10, {"Conv": 10, "Clip": 7, "Add": 2, "ReduceMean": 1, "Gemm": 1}),
        ("repvgg", PICTURE, 10, {"Conv": 4, "Relu": 4, "ReduceMean": 1, "Gemm": 1}),
        ("unet", PICTURE, 12, {"Conv": 11, "Relu": 10, "ConvTranspose": 2, "MaxPool": 2, "Concat": 2}),
        ("temporal", SEQUENCE, 8, {"Conv": 8, "Relu": 6, "Add": 3, "ReduceMean": 1, "Gemm": 1}),
    ],
)
def test_network_with_a_linear_layer_before_each_batchnorm_folds_completely(
    tmp_path: Path, name: str, shape: tuple[int, ...], before: int, left: dict[str, int]
) -> None:
    folded, operators = fold_network(tmp_path, name, shape)
    assert folded.report.batchnorm_before == before
    assert folded.report.batchnorm_after == 0
    assert operators == left


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "shape", "options"),
    [
        ("mlp", PICTURE, {"widths": [8]}),
        ("convnet", PICTURE, {}),
        ("resnet", PICTURE, {"depths": [1, 1], "widths": [4, 8]}),
        ("preact_resnet", PICTURE, {"depths": [1, 1, 1], "widths": [4, 8, 16]}),
        ("mobilenet", PICTURE, {"depths": [1, 1]}),
        ("densenet", PICTURE, {"depths": [2, 2], "growth_rate": 4}),
        ("repvgg", (3, 12, 12), {"depths": [2, 1], "widths": [4, 6]}),
        ("unet", PICTURE, {"widths": [4, 6, 8]}),
        ("temporal", SEQUENCE, {"widths": [4]}),
    ],
)
def test_folded_network_unfolds_and_folds_to_the_same_weights(
    tmp_path: Path, name: str, shape: tuple[int, ...], options: dict[str, Any]
) -> None:
    """With samples, and with the statistics of a bundle without its source, which a merge may leave without a place."""
    written = to_onnx(trained_like(name, shape, **options), tmp_path / "net.onnx", {"input": InputSpec(shape)})
    exported = export_bundle(written.path, tmp_path / "models", "net", keep_source=False, monitoring=False)
    folded = onnx.load(exported.path / "model.onnx")
    counts = Counter(node.op_type for node in folded.graph.node)
    np.savez(tmp_path / "samples.npz", input=np.random.default_rng(0).normal(size=(40, *shape)).astype(np.float32))

    found = unfold_file(exported.path / "model.onnx", tmp_path / "unfolded.onnx", tmp_path / "samples.npz").report
    assert len(found.layers) + len(found.left) == counts["Conv"] + counts["ConvTranspose"] + counts["Gemm"]
    fold_file(tmp_path / "unfolded.onnx", tmp_path / "again.onnx")
    assert_same_weights(folded, onnx.load(tmp_path / "again.onnx"))

    if name == "repvgg":
        with pytest.raises(UnfoldError, match=r"no value of the folded network is its output. Its model.onnx can be"):
            unfold_bundle(tmp_path / "models", "net", tmp_path / "own.onnx")
        return
    own = unfold_bundle(tmp_path / "models", "net", tmp_path / "own.onnx").report
    assert len(own.layers) + len(own.left) == exported.report.batchnorm_before - exported.report.batchnorm_after
    fold_file(tmp_path / "own.onnx", tmp_path / "again.onnx")
    assert_same_weights(folded, onnx.load(tmp_path / "again.onnx"))


@pytest.mark.slow
@pytest.mark.parametrize(("depths", "first_stride"), [([3, 2], 1), ([1, 4, 1], 2)])
def test_every_repvgg_block_becomes_one_3_by_3_convolution(
    tmp_path: Path, depths: list[int], first_stride: int
) -> None:
    widths = [4, 6, 8][: len(depths)]
    fold_network(tmp_path, "repvgg", (3, 12, 12), depths=depths, widths=widths, first_stride=first_stride)
    graph = onnx.load(tmp_path / "folded.onnx").graph
    shapes = {initializer.name: tuple(initializer.dims) for initializer in graph.initializer}
    kernels = [shapes[node.input[1]][2:] for node in graph.node if node.op_type == "Conv"]
    assert kernels == [(3, 3)] * sum(depths)
    assert {node.op_type for node in graph.node} == {"Conv", "Relu", "ReduceMean", "Gemm"}


@pytest.mark.slow
@pytest.mark.parametrize(("depths", "growth_rate"), [([4, 4], 12), ([2, 3, 1], 4)])
def test_densenet_keeps_norms_that_read_a_concat_and_folds_the_rest(
    tmp_path: Path, depths: list[int], growth_rate: int
) -> None:
    folded, operators = fold_network(tmp_path, "densenet", PICTURE, depths=depths, growth_rate=growth_rate)
    layers, transitions = sum(depths), len(depths) - 1
    # The stem's, two of each layer, one of each transition, and the last; of them the stem's and each layer's second.
    assert folded.report.batchnorm_before == 1 + 2 * layers + transitions + 1
    # A transition absorbs the first norm of the next block; those behind its concatenations compensate.
    left = layers + 1
    assert folded.report.batchnorm_after == left
    # What a norm of the first block reads goes back to the stem's Relu; in later blocks it first meets other readers.
    of_first_block = depths[0] + 1
    assert folded.report.kept == {BENDS: of_first_block, READ_ELSEWHERE: left - of_first_block}
    assert operators["Conv"] == 1 + 2 * layers + transitions


@pytest.mark.slow
@pytest.mark.parametrize("block", ["basic", "bottleneck"])
def test_a_preactivated_resnet_keeps_the_norms_that_read_a_sum(tmp_path: Path, block: str) -> None:
    folded, _ = fold_network(tmp_path, "preact_resnet", PICTURE, block=block, depths=[2, 2], widths=[4, 8])
    inside = {"basic": 1, "bottleneck": 2}[block]
    assert folded.report.batchnorm_before == 1 + 4 * inside + 4
    # Four norms read the sum that ends a unit: it, or what that unit added to it, has other readers.
    assert folded.report.kept == {READ_ELSEWHERE: 4}


@pytest.mark.slow
def test_a_preactivated_norm_folds_into_both_branches_of_a_sum_that_nothing_else_reads(tmp_path: Path) -> None:
    folded, _ = fold_network(tmp_path, "preact_resnet", PICTURE, depths=[1, 1, 1], widths=[4, 8, 16])
    # The second and third unit end in a sum of two convolutions, the first in one with what it reads itself.
    assert folded.report.kept == {READ_ELSEWHERE: 1}
    assert folded.report.batchnorm_before == 7


@pytest.mark.slow
def test_a_unet_takes_pictures_of_other_sizes_than_it_was_trained_on(tmp_path: Path) -> None:
    network = trained_like("unet", PICTURE)
    written = to_onnx(network, tmp_path / "unfolded.onnx", {"input": InputSpec(PICTURE)}, dynamic_size=True)
    assert fold_file(written.path, tmp_path / "folded.onnx").report.batchnorm_after == 0


@contextmanager
def served(repository: Path) -> Iterator[httpx.Client]:
    settings = Settings(repository=repository, provider="cpu")
    with serve_app(create_app(settings), settings) as service:
        service.wait_until_loaded()
        yield service.client


@pytest.mark.slow
def test_masks_go_from_training_to_the_class_of_every_served_pixel(normfold: RunCommand, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    y = (rng.uniform(size=(150, 2, 4)) < 0.4).repeat(4, axis=1).repeat(2, axis=2).astype(np.int64)
    x = (200 * y + rng.integers(0, 56, y.shape)).astype(np.uint8)
    np.savez("masks.npz", x=x, y=y, labels=["ground", "thing"])
    train = ("train", "--arch", "unet", "--arg", "widths=[4,8]", "--data", "npz:masks.npz", "--epochs", "12", "--json")
    code, out, err = normfold(*train, "--out", "run", "--batch-size", "32")
    assert code == 0, err
    record = json.loads(out)
    assert record["accuracy"] > 0.97
    assert record["mean_iou"] > 0.9
    assert "mean IoU" in err
    code, out, err = normfold("export", "run", "--name", "masks", "--json")
    assert code == 0, err
    manifest = read_manifest(tmp_path / "model_repository" / "masks" / "1" / "manifest.json")
    assert manifest.fold.batchnorm_after == 0
    checkpoint = recalibrate_run(Path("run")).checkpoint
    assert manifest.card == checkpoint.config.card
    assert manifest.card.metrics["test_mean_iou"] > 0.9
    preprocessing = checkpoint.config.card.preprocessing
    assert preprocessing is not None
    logits = checkpoint.network(torch.from_numpy(preprocessing.standardise(x[:3, None]))).detach()
    with served(tmp_path / "model_repository") as client:
        answer = client.post("/v1/models/masks:predict", json={"instances": x[:3].tolist()})
        assert answer.status_code == 200
        assert [one["mask"] for one in answer.json()["predictions"]] == logits.argmax(1).tolist()
        refused = client.post("/v1/models/masks:classify", content=png_of(x[0]))
        assert refused.status_code == 400
        assert "classifies pixels, not images; use :predict or infer" in refused.json()["error"]
        tensor = {"name": "input", "datatype": "FP32", "shape": [1, 1, 8, 8]}
        data = preprocessing.standardise(x[:1, None]).flatten().tolist()
        inferred = client.post("/v2/models/masks/infer", json={"inputs": [{**tensor, "data": data}]}).json()
        assert inferred["outputs"][0]["shape"] == [1, 2, 8, 8]
        np.testing.assert_allclose(inferred["outputs"][0]["data"], logits[0].flatten(), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_sequences_go_from_training_to_a_served_class(normfold: RunCommand, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    y = np.arange(150) % 3
    time = np.linspace(0, 2 * np.pi, 12)
    waves = np.sin((1 + y[:, None]) * time + rng.uniform(0, 6, (150, 1)))
    x = np.stack([1000 + 50 * waves, rng.normal(size=waves.shape)], axis=1)
    np.savez("waves.npz", x=x, y=y, labels=["slow", "middle", "fast"], channels=["wave", "noise"])
    train = ("train", "--arch", "temporal", "--arg", "widths=[8,16]", "--data", "npz:waves.npz", "--epochs", "20")
    code, out, err = normfold(*train, "--out", "run", "--batch-size", "32", "--json")
    assert code == 0, err
    assert json.loads(out)["accuracy"] > 0.9
    code, _, err = normfold("export", "run", "--name", "waves")
    assert code == 0, err
    manifest = read_manifest(tmp_path / "model_repository" / "waves" / "1" / "manifest.json")
    assert (manifest.schema_version, manifest.fold.batchnorm_after) == (3, 0)
    checkpoint = recalibrate_run(Path("run")).checkpoint
    preprocessing = checkpoint.config.card.preprocessing
    assert preprocessing is not None
    expected = checkpoint.network(torch.from_numpy(preprocessing.standardise(x[:3]))).softmax(1).detach()
    named = [{"noise": noise.tolist(), "wave": wave.tolist()} for wave, noise in x[:3]]
    with served(tmp_path / "model_repository") as client:
        for instances in (x[:3].tolist(), named):
            predictions = client.post("/v1/models/waves:predict", json={"instances": instances}).json()["predictions"]
            probabilities = [one["probabilities"] for one in predictions]
            np.testing.assert_allclose(probabilities, expected, rtol=1e-3, atol=1e-5)
            assert [one["label"] for one in predictions] == [
                ("slow", "middle", "fast")[index] for index in expected.argmax(1)
            ]
        refused = client.post("/v1/models/waves:predict", json={"instances": x[:1, :, :5].tolist()})
        assert refused.status_code == 400
        assert "Expected a sequence of 2 channels of 12 numbers, got shape [2, 5]" in refused.json()["error"]
        assert "does not take images" in client.post("/v1/models/waves:classify", content=b"x").json()["error"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--arch", "unet"], "classification needs outputs of shape [2, 10]."),
        (
            ["--arch", "convnet", "--data", "npz:masks.npz"],
            "'convnet' returns [2, 2] for 2 samples; segmentation needs outputs of shape [2, 2, 4, 4].",
        ),
        (["--arch", "temporal"], "an array 'channels' with the channels' names marks 'x' as sequences"),
        (["--arch", "repvgg", "--data", "npz:waves.npz"], "A repvgg takes samples of shape (channels, height, width)"),
    ],
)
def test_a_network_of_another_kind_than_the_data_is_one_sentence(
    normfold: RunCommand, arguments: list[str], message: str
) -> None:
    y = np.arange(30) % 2
    np.savez("masks.npz", x=np.arange(480).reshape(30, 4, 4), y=np.broadcast_to(y[:, None, None], (30, 4, 4)))
    np.savez("waves.npz", x=np.arange(240).reshape(30, 2, 4), y=y, channels=["a", "b"])
    code, out, err = normfold("train", "--out", "run", *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert not Path("run").exists()
