"""Quantising a network to int8, from statistics and from samples: noise, saturation, what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from normfold.contract.preprocess import ImagePreprocessing
from normfold.contract.source_card import SourceCard
from normfold.export.bundle.export import export_bundle
from normfold.export.bundle.statistics import read_statistics
from normfold.export.errors import ModelFileError, QuantizeError, SampleError
from normfold.export.fold.fold import fold
from normfold.export.onnx_io.model_file import load_model, save_model
from normfold.export.quantize.channel_statistics import of_bundle
from normfold.export.quantize.int8.quantize import quantize_int8
from normfold.export.quantize.int8.result import RangeSource
from tests.support import onnx_models
from tests.support.onnx_models import (
    SAMPLES,
    STATISTICS,
    batchnorm,
    classifier,
    classifier_rows,
    folded,
    model,
    operators,
    quantised,
    run32,
    sqnr_db,
    with_statistics_of,
)

WAYS = [STATISTICS, SAMPLES]


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("activation", ["Relu", "HardSwish", "LeakyRelu"])
def test_quantised_network_answers_as_the_folded_one(tmp_path: Path, way: str, activation: str) -> None:
    rng = np.random.default_rng(0)
    before, after, result = quantised(classifier(rng, activation=activation), tmp_path, way)
    rows = classifier_rows(rng, 100)
    (wanted,), (given,) = run32(before, rows), run32(after, rows, optimised=True)
    assert sqnr_db(wanted, given) > 25
    assert result.range_source is (RangeSource.SAMPLES if way == SAMPLES else RangeSource.STATISTICS)
    assert result.layers == ("conv0", "conv1", "conv2", "gemm")
    assert result.bias_corrected == result.layers
    assert [each.layer for each in result.saturation] == list(result.layers)
    assert not any(each.saturates for each in result.saturation)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_runtime_computes_what_the_file_says(tmp_path: Path, way: str) -> None:
    """Large weights of one sign and large inputs: plain 8 bits saturate on a processor without VNNI."""
    rng = np.random.default_rng(0)
    source = classifier(rng, channels=32)
    for tensor in source.graph.initializer:
        if tensor.name in ("w0", "w2", "v"):
            array = np.abs(onnx.numpy_helper.to_array(tensor))
            array[...] = array.max() * rng.uniform(0.95, 1, array.shape)
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    rows = {"x": np.abs(classifier_rows(rng, 100)["x"])}
    _, after, result = quantised(with_statistics_of(source, rows), tmp_path, way, rows)
    (written,), (fused,) = run32(after, rows), run32(after, rows, optimised=True)
    assert sqnr_db(written, fused) > 25
    assert max(each.pair_sum for each in result.saturation) == 128


def test_layers_are_fused_into_int8_ones(tmp_path: Path) -> None:
    import onnxruntime

    _, after, _ = quantised(classifier(np.random.default_rng(0)), tmp_path, STATISTICS)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "fused.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(after.SerializeToString(), options, providers=["CPUExecutionProvider"])
    fused = operators(onnx.load(tmp_path / "fused.onnx"))
    assert fused.count("QLinearConv") == 3
    assert {"QGemm", "QLinearAdd"} <= set(fused)
    assert not {"Conv", "Gemm", "Add", "Relu", "FusedConv"} & set(fused)


def test_output_of_a_last_gemm_is_not_rounded(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    _, after, _ = quantised(classifier(rng), tmp_path, STATISTICS)
    (last,) = [node for node in after.graph.node if "y" in node.output]
    assert last.op_type == "Gemm"
    rows = classifier_rows(rng, 100)
    assert len(np.unique(run32(after, rows, optimised=True)[0])) > 300


def test_softmax_behind_the_last_layer_stays_float(tmp_path: Path) -> None:
    source = classifier(np.random.default_rng(0))
    source.graph.node[-1].output[0] = "logits"
    source.graph.node.append(helper.make_node("Softmax", ["logits"], ["y"]))
    del source.graph.value_info[:]
    _, after, _ = quantised(source, tmp_path, STATISTICS)
    assert operators(after)[-2:] == ["Gemm", "Softmax"]


@pytest.mark.slow
def test_bias_correction_lowers_the_mean_error(tmp_path: Path) -> None:
    errors = []
    for correct in (False, True):
        found = []
        for seed in range(6):
            rng = np.random.default_rng(seed)
            source, rows = classifier(rng, channels=16), classifier_rows(rng, 400)
            before, after, _ = quantised(source, tmp_path, SAMPLES, classifier_rows(rng, 256), correct_bias=correct)
            difference = run32(after, rows, optimised=True)[0] - run32(before, rows)[0]
            found.append(np.abs(difference.mean(axis=0)).mean())
        errors.append(np.mean(found))
    assert errors[1] < 0.8 * errors[0]


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_spread_channels_are_rescued_by_equalisation(tmp_path: Path, way: str) -> None:
    rng = np.random.default_rng(0)
    source = classifier(rng)
    factor = 10 ** rng.uniform(-1.5, 1.5, 8).astype(np.float32)
    tensors = {tensor.name: tensor for tensor in source.graph.initializer}
    changes = {"bn1.scale": factor, "bn1.shift": factor, "w2": 1 / factor.reshape(1, -1, 1, 1)}
    for name, each in changes.items():
        array = onnx.numpy_helper.to_array(tensors[name]) * each
        tensors[name].CopyFrom(onnx.numpy_helper.from_array(array.astype(np.float32), name))
    rows = classifier_rows(rng, 100)
    found = {}
    for on in (True, False):
        before, after, result = quantised(source, tmp_path, way, equalise=on)
        found[on] = sqnr_db(run32(before, rows)[0], run32(after, rows, optimised=True)[0])
        assert [(pair.first, pair.second) for pair in result.equalised] == ([("conv1", "conv2")] if on else [])
    assert found[True] > 22
    assert found[True] > found[False] + 6


@pytest.mark.parametrize("behind", [[], ["Softmax"]])
def test_relu_behind_the_last_layer_stays(tmp_path: Path, behind: list[str]) -> None:
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Gemm", ["x", "w"], ["h"], name="gemm"),
        helper.make_node("Relu", ["h"], ["r" if behind else "y"], name="relu"),
        *(helper.make_node(operator, ["r"], ["y"]) for operator in behind),
    ]
    weight = rng.normal(size=(6, 5)).astype(np.float32)
    source = model(nodes, {"x": ["n", 6]}, ["y"], {"w": weight}, dtype=np.float32)
    rows = {"x": rng.normal(size=(64, 6)).astype(np.float32)}
    before, after, _ = quantised(source, tmp_path, SAMPLES, rows)
    (wanted,), (given,) = run32(before, rows), run32(after, rows, optimised=True)
    assert given.min() >= 0
    assert sqnr_db(wanted, given) > 25


@pytest.mark.slow
def test_healthy_network_is_not_equalised(tmp_path: Path) -> None:
    for seed in range(3):
        for way in WAYS:
            assert quantised(classifier(np.random.default_rng(seed)), tmp_path, way)[2].equalised == ()


def test_node_to_keep_stays_float(tmp_path: Path) -> None:
    _, after, result = quantised(classifier(np.random.default_rng(0)), tmp_path, STATISTICS, keep=("conv0", "gemm"))
    assert result.layers == ("conv1", "conv2")
    weights = {tensor.name for tensor in after.graph.initializer}
    assert [node.input[1] in weights for node in after.graph.node if node.op_type == "Conv"] == [True, False, False]


@pytest.mark.slow
@pytest.mark.parametrize("opset", [11, 13, 20])
def test_other_opsets_are_quantised(tmp_path: Path, opset: int) -> None:
    rng = np.random.default_rng(0)
    source = classifier(rng, opset=max(opset, 14) if opset > 13 else opset)
    before, after, _ = quantised(source, tmp_path, STATISTICS)
    rows = classifier_rows(rng, 50)
    assert sqnr_db(run32(before, rows)[0], run32(after, rows, optimised=True)[0]) > 25


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_network_of_a_fixed_batch_is_quantised(tmp_path: Path, way: str) -> None:
    rng = np.random.default_rng(0)
    source = classifier(rng)
    source.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    source.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 4
    del source.graph.value_info[:]
    before, after, _ = quantised(source, tmp_path, way)
    rows = classifier_rows(rng, 4)
    assert sqnr_db(run32(before, rows)[0], run32(after, rows, optimised=True)[0]) > 25


@pytest.mark.slow
def test_network_of_free_sizes_is_quantised(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    source = classifier(rng)
    for axis in (2, 3):
        source.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = f"size{axis}"
    del source.graph.value_info[:]
    before, after, _ = quantised(source, tmp_path, STATISTICS)
    rows = {"x": rng.normal(size=(20, 4, 9, 7)).astype(np.float32)}
    assert sqnr_db(run32(before, rows)[0], run32(after, rows, optimised=True)[0]) > 25


@pytest.mark.slow
@pytest.mark.parametrize("takes_pixels", [False, True])
def test_bundle_is_quantised_from_its_statistics(tmp_path: Path, takes_pixels: bool) -> None:
    rng = np.random.default_rng(0)
    card = ImagePreprocessing(channels=3, height=6, width=6, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.25))
    source = onnx_models.colour_convnet(rng)
    pixels = rng.integers(0, 256, (40, 3, 6, 6)).astype(np.uint8)
    source = with_statistics_of(source, {"x": card.standardise(pixels)})
    path = onnx_models.save_model(source, tmp_path)
    bundle = export_bundle(
        path, tmp_path / "repository", "colour", card=SourceCard(preprocessing=card), takes_pixels=takes_pixels
    )
    target = tmp_path / "int8.onnx"
    result = quantize_int8(
        bundle.path / "model.onnx",
        target,
        unfolded=bundle.path / "unfolded.onnx",
        statistics=of_bundle(read_statistics(bundle.path / "statistics.safetensors")),
    )
    assert result.layers == ("conv",)
    rows = {"x": pixels if takes_pixels else card.standardise(pixels)}
    (wanted,), (given,) = run32(onnx.load(bundle.path / "model.onnx"), rows), run32(onnx.load(target), rows, True)
    assert sqnr_db(wanted, given) > 25


def test_branches_that_were_not_merged_are_quantised(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    source = classifier(rng)
    path, before = onnx_models.save_model(source, tmp_path), tmp_path / "folded.onnx"
    working = load_model(path)
    fold(working, merging=False)
    save_model(working, before)
    assert quantize_int8(before, tmp_path / "int8.onnx", unfolded=path).layers[0] == "conv0"


def test_network_with_nothing_to_quantise_is_refused(tmp_path: Path) -> None:
    source = model([helper.make_node("Relu", ["x"], ["y"])], {"x": ["n", 3]}, ["y"], {}, dtype=np.float32)
    path = onnx_models.save_model(source, tmp_path)
    with pytest.raises(
        QuantizeError, match="holds nothing to quantise: no Conv, Gemm or MatMul has a constant weight"
    ):
        quantize_int8(path, tmp_path / "int8.onnx", samples={"x": np.zeros((3, 3), np.float32)})
    assert not (tmp_path / "int8.onnx").exists()


def test_neither_statistics_nor_samples_are_refused_with_both_remedies(tmp_path: Path) -> None:
    proto, _ = folded(classifier(np.random.default_rng(0)))
    path = onnx_models.save_model(proto, tmp_path)
    for given in ({}, {"unfolded": path}, {"statistics": {}}):
        with pytest.raises(QuantizeError, match=r"before its fold, or a bundle, or take the ranges of `samples`"):
            quantize_int8(path, tmp_path / "int8.onnx", **given)
    assert not (tmp_path / "int8.onnx").exists()


def test_samples_of_another_shape_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SampleError, match=r"have shape \[8, 4, 5, 6\], the input"):
        quantised(classifier(np.random.default_rng(0)), tmp_path, SAMPLES, {"x": np.zeros((8, 4, 5, 6), np.float32)})
    assert not (tmp_path / "int8.onnx").exists()


def test_quantised_network_is_not_quantised_again(tmp_path: Path) -> None:
    quantised(classifier(np.random.default_rng(0)), tmp_path, STATISTICS)
    with pytest.raises(QuantizeError, match="is quantised already"):
        quantize_int8(tmp_path / "int8.onnx", tmp_path / "again.onnx", unfolded=tmp_path / "net.onnx")


def test_file_that_is_no_network_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(b"no network")
    with pytest.raises(ModelFileError, match="is not an ONNX model"):
        quantize_int8(path, tmp_path / "int8.onnx")


def test_progress_names_each_step(tmp_path: Path) -> None:
    path = onnx_models.save_model(classifier(np.random.default_rng(0)), tmp_path)
    working = load_model(path)
    fold(working)
    save_model(working, tmp_path / "folded.onnx")
    steps: list[str] = []
    quantize_int8(tmp_path / "folded.onnx", tmp_path / "int8.onnx", unfolded=path, progress=steps.append)
    assert steps[:2] == ["quantising: reading the network", "quantising: ranges from statistics"]


def test_matmul_by_a_constant_is_quantised(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="first"),
        batchnorm("h", "n"),
        helper.make_node("Relu", ["n"], ["r"]),
        helper.make_node("MatMul", ["r", "v"], ["y"], name="second"),
    ]
    constants = {"w": rng.normal(size=(6, 8)), "v": rng.normal(size=(8, 3))} | onnx_models.statistics(rng, 8)
    constants = {name: each.astype(np.float32) for name, each in constants.items()}
    rows = {"x": rng.normal(size=(200, 6)).astype(np.float32)}
    source = with_statistics_of(model(nodes, {"x": ["n", 6]}, ["y"], constants, dtype=np.float32), rows)
    before, after, result = quantised(source, tmp_path, STATISTICS)
    assert result.layers[-1] == "second"
    assert sqnr_db(run32(before, rows)[0], run32(after, rows, optimised=True)[0]) > 25
