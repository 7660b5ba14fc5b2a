"""Unfolded files: the same function, statistics of the samples, and a fold that gives back the layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

from normfold.export.errors import (
    IdenticalSamplesError,
    ModelFileError,
    SampleCountError,
    UnfoldError,
    VerificationError,
)
from normfold.export.files.fold_file import fold_file
from normfold.export.graph.pixels import FromPixels
from normfold.export.unfold import with_samples
from normfold.export.unfold.parameters import Parameters, bias_parameters
from normfold.export.unfold.unfold import UnfoldedFile, unfold_file
from tests.support.onnx_models import (
    COLOUR_CARD,
    assert_same_weights,
    batchnorm,
    colour_convnet,
    constants_of,
    conv_blocks,
    folded_again,
    model,
    operators,
    run32,
    statistics,
    with_output,
)

COUNT = 40


def unfolded(
    proto: onnx.ModelProto, folder: Path, rows: np.ndarray, **options: Any
) -> tuple[onnx.ModelProto, UnfoldedFile]:
    """Unfold a model with samples of its input x, and check the result."""
    onnx.save(proto, folder / "folded.onnx")
    np.savez(folder / "samples.npz", x=rows)
    found = unfold_file(folder / "folded.onnx", folder / "unfolded.onnx", folder / "samples.npz", **options)
    result = onnx.load(folder / "unfolded.onnx")
    onnx.checker.check_model(result, full_check=True)
    assert found.verification.passes
    return result, found


def layer(op_type: str, shape: list[Any], constants: dict[str, np.ndarray], opset: int = 17, **attributes: Any) -> Any:
    """Make one layer between Relus: x -> Relu -> layer -> h -> Relu -> y."""
    dtype = next(iter(constants.values())).dtype
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node(op_type, ["r", *constants], ["h"], name="layer", **attributes),
        helper.make_node("Relu", ["h"], ["y"]),
    ]
    return model(nodes, {"x": shape}, ["y"], constants, opset, dtype)


RNG = np.random.default_rng(0)


def weight(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return RNG.normal(size=shape).astype(dtype)


LAYERS: dict[str, tuple[onnx.ModelProto, list[int]]] = {
    "conv": (layer("Conv", ["n", 3, "h", "w"], {"w": weight(5, 3, 3, 3), "b": weight(5)}, pads=[1] * 4), [3, 6, 7]),
    "conv_without_bias": (layer("Conv", ["n", 3, 7, 7], {"w": weight(5, 3, 3, 3)}, strides=[2, 2]), [3, 7, 7]),
    "conv_of_one_axis": (layer("Conv", ["n", 4, 9], {"w": weight(4, 1, 3), "b": weight(4)}, group=4), [4, 9]),
    "conv_of_three_axes": (
        layer("Conv", ["n", 2, 4, 4, 4], {"w": weight(3, 2, 2, 2, 2), "b": weight(3)}),
        [2, 4, 4, 4],
    ),
    "conv_opset_7": (layer("Conv", ["n", 3, 5, 5], {"w": weight(5, 3, 3, 3), "b": weight(5)}, opset=7), [3, 5, 5]),
    "conv_transpose": (
        layer("ConvTranspose", ["n", 4, 5, 5], {"w": weight(4, 3, 2, 2), "b": weight(6)}, group=2, strides=[2, 2]),
        [4, 5, 5],
    ),
    "gemm": (layer("Gemm", ["n", 6], {"w": weight(6, 5), "b": weight(5)}), [6]),
    "gemm_transposed": (layer("Gemm", ["n", 6], {"w": weight(5, 6), "b": weight(1, 5)}, transB=1, alpha=0.5), [6]),
    "gemm_with_beta": (layer("Gemm", ["n", 6], {"w": weight(6, 5), "b": weight(5)}, beta=0.5), [6]),
    "gemm_with_beta_0": (layer("Gemm", ["n", 6], {"w": weight(6, 5), "b": weight(5)}, beta=0.0), [6]),
    "gemm_scalar_bias": (layer("Gemm", ["n", 6], {"w": weight(6, 5), "b": weight(1)}, opset=9), [6]),
    "gemm_opset_9": (layer("Gemm", ["n", 6], {"w": weight(6, 5), "b": weight(5)}, opset=9), [6]),
    "matmul": (layer("MatMul", ["n", 6], {"w": weight(6, 5)}), [6]),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYERS)
def test_layer_gets_a_batchnorm_that_folds_back(name: str, tmp_path: Path) -> None:
    proto, sample = LAYERS[name]
    rows = np.random.default_rng(1).normal(0.5, 2, (COUNT, *sample)).astype(np.float32)

    result, found = unfolded(proto, tmp_path, rows)

    assert [one.behind for one in found.report.layers] == ["layer"]
    assert operators(result) == ["Relu", operators(proto)[1], "BatchNormalization", "Relu"]
    if name != "gemm_scalar_bias":  # a scalar becomes one number for each column
        assert_same_weights(proto, folded_again(tmp_path), units=0 if "bias" in name else 2)
    before = result.graph.node[2].input[0]
    (h,) = run32(with_output(result, before), {"x": rows})
    constants = constants_of(result)
    axes = (0, *range(2, h.ndim))
    np.testing.assert_allclose(constants["layer.batchnorm.running_mean"], h.mean(axes), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(constants["layer.batchnorm.running_var"], h.var(axes), rtol=2e-3)


@pytest.mark.parametrize("name", ["conv", "conv_of_one_axis", "conv_transpose", "gemm", "gemm_transposed"])
def test_bias_moves_into_the_batchnorm(name: str, tmp_path: Path) -> None:
    proto, sample = LAYERS[name]
    rows = np.random.default_rng(1).normal(size=(COUNT, *sample)).astype(np.float32)

    result, _ = unfolded(proto, tmp_path, rows)

    assert len(result.graph.node[1].input) == 2
    assert "b" not in constants_of(result)
    (h,) = run32(with_output(proto, "h"), {"x": rows})
    shift = constants_of(result)["layer.batchnorm.shift"]
    np.testing.assert_allclose(shift, h.mean((0, *range(2, h.ndim))), rtol=1e-4, atol=1e-4)


def test_product_and_its_added_vector_become_product_and_batchnorm(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="product"),
        helper.make_node("Add", ["b", "h"], ["a"]),
        helper.make_node("Relu", ["a"], ["y"]),
    ]
    proto = model(nodes, {"x": ["n", 6]}, ["y"], {"w": weight(6, 5), "b": weight(5)}, dtype=np.float32)

    result, _ = unfolded(proto, tmp_path, weight(COUNT, 6))

    assert operators(result) == ["MatMul", "BatchNormalization", "Relu"]
    again = constants_of(folded_again(tmp_path))
    np.testing.assert_array_equal(again["w"], constants_of(proto)["w"])
    np.testing.assert_allclose(again["product.bias"], constants_of(proto)["b"], rtol=3e-7)


def test_output_of_the_network_keeps_its_name_behind_a_batchnorm(tmp_path: Path) -> None:
    proto = model(
        [
            helper.make_node("Conv", ["x", "w", "b"], ["h"], name="conv"),
            helper.make_node("Relu", ["h"], ["r"]),
            helper.make_node("Add", ["h", "r"], ["y"]),
        ],
        {"x": ["n", 2, 4, 4]},
        ["y", "h"],
        {"w": weight(3, 2, 1, 1), "b": weight(3)},
        dtype=np.float32,
    )

    result, _ = unfolded(proto, tmp_path, weight(COUNT, 2, 4, 4))

    assert [value.name for value in result.graph.output] == ["y", "h"]
    assert operators(result) == ["Conv", "BatchNormalization", "Relu", "Add"]
    assert_same_weights(proto, folded_again(tmp_path))


@pytest.mark.slow
def test_layers_behind_one_another_each_get_their_own_statistics(tmp_path: Path) -> None:
    onnx.save(conv_blocks(np.random.default_rng(0), 4), tmp_path / "net.onnx")
    fold_file(tmp_path / "net.onnx", tmp_path / "folded.onnx")
    proto = onnx.load(tmp_path / "folded.onnx")
    rows = np.random.default_rng(1).normal(size=(COUNT, 4, 5, 5)).astype(np.float32)

    result, _ = unfolded(proto, tmp_path, rows)

    assert operators(result) == ["Conv", "BatchNormalization", "Relu"] * 4
    keeps_bias = [len(node.input) == 3 for node in result.graph.node if node.op_type == "Conv"]
    assert (keeps_bias[:2], keeps_bias[3]) == ([False, False], True)  # the last one's mean is 6e5 times its bias
    assert_same_weights(proto, folded_again(tmp_path))
    for node in result.graph.node[1::3]:
        (h,) = run32(with_output(result, node.input[0]), {"x": rows})
        np.testing.assert_allclose(constants_of(result)[node.input[3]], h.mean((0, 2, 3)), rtol=1e-3, atol=1e-4)


def test_batch_of_a_fixed_size_is_sampled_in_whole_batches(tmp_path: Path) -> None:
    proto = layer("Conv", [8, 2, 4, 4], {"w": weight(3, 2, 1, 1), "b": weight(3)})
    assert operators(unfolded(proto, tmp_path, weight(COUNT, 2, 4, 4))[0])[2] == "BatchNormalization"


@pytest.mark.parametrize("opset", [14, 17])
def test_float16_layer_is_unfolded(tmp_path: Path, opset: int) -> None:
    rows = np.random.default_rng(1).normal(size=(COUNT, 3, 6, 6)).astype(np.float16)
    constants = {"w": weight(4, 3, 1, 1, dtype=np.float16), "b": weight(4, dtype=np.float16)}
    proto = layer("Conv", ["n", 3, 6, 6], constants, opset)

    result, _ = unfolded(proto, tmp_path, rows)

    scale = constants_of(result)["layer.batchnorm.scale"]
    assert scale.dtype == (np.float32 if opset >= 15 else np.float16)
    assert_same_weights(proto, folded_again(tmp_path))


def test_float64_layer_is_unfolded(tmp_path: Path) -> None:
    constants = {"w": weight(4, 3, 1, 1, dtype=np.float64), "b": weight(4, dtype=np.float64)}
    proto = layer("Conv", ["n", 3, 2, 2], constants)
    unfolded(proto, tmp_path, weight(COUNT, 3, 2, 2, dtype=np.float64))
    assert_same_weights(proto, folded_again(tmp_path))


def test_layers_that_get_no_batchnorm_are_named_with_the_reason(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="conv"),
        helper.make_node("Conv", ["c", "k"], ["d"], name="normalised"),
        batchnorm("d", "e"),
        helper.make_node("MatMul", ["e", "m"], ["f"], name="sequence"),
        helper.make_node("Mul", ["k", "two"], ["k2"]),
        helper.make_node("Conv", ["f", "k2"], ["g"], name="computed"),
        helper.make_node("MatMul", ["g", "g"], ["y"], name="attention"),
    ]
    constants = {"w": weight(3, 2, 1, 1), "k": weight(3, 3, 1, 1), "m": weight(4, 4), "two": np.float32([2])}
    proto = model(
        nodes, {"x": ["n", 2, 4, 4]}, ["y"], constants | statistics(RNG, 3, dtype=np.float32), dtype=np.float32
    )

    _, found = unfolded(proto, tmp_path, weight(COUNT, 2, 4, 4))

    assert [one.behind for one in found.report.layers] == ["conv"]
    assert found.report.left == (
        "Conv 'normalised' gets no BatchNormalization: one reads its output already.",
        "MatMul 'sequence' gets no BatchNormalization: its channels are not on axis 1, where BatchNormalization takes "
        "them.",
        "Conv 'computed' gets no BatchNormalization: its weight is computed.",
    )


def test_file_without_samples_is_an_error_that_says_what_to_give(tmp_path: Path) -> None:
    onnx.save(LAYERS["conv"][0], tmp_path / "net.onnx")
    with pytest.raises(
        UnfoldError, match=r"give inputs of the network to take them from: `samples`, a folder, an .npz"
    ):
        unfold_file(tmp_path / "net.onnx", tmp_path / "out.onnx", None)
    assert not (tmp_path / "out.onnx").exists()


def test_file_without_layers_is_an_error(tmp_path: Path) -> None:
    proto = model([helper.make_node("Relu", ["x"], ["y"])], {"x": ["n", 2]}, ["y"], {}, dtype=np.float32)
    with pytest.raises(UnfoldError, match="no layer to put a BatchNormalization behind"):
        unfolded(proto, tmp_path, weight(COUNT, 2))


@pytest.mark.parametrize(
    ("rows", "error"), [(weight(1, 6), SampleCountError), (np.ones((40, 6), np.float32), IdenticalSamplesError)]
)
def test_unusable_samples_write_nothing(rows: np.ndarray, error: type[Exception], tmp_path: Path) -> None:
    with pytest.raises(error):
        unfolded(LAYERS["gemm"][0], tmp_path, rows)
    assert not (tmp_path / "unfolded.onnx").exists()


def test_few_samples_are_warned_of(tmp_path: Path) -> None:
    _, found = unfolded(LAYERS["gemm"][0], tmp_path, weight(5, 6))
    assert "5 samples give rough statistics" in found.warnings[0]


@pytest.mark.slow
def test_wrong_parameters_fail_verification_and_leave_the_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def off(*given: Any) -> Parameters:
        right = bias_parameters(*given)
        return Parameters(right.scale * 1.001, right.shift, right.running_mean, right.running_var, right.epsilon)

    monkeypatch.setattr(with_samples, "bias_parameters", off)
    (tmp_path / "unfolded.onnx").write_text("old")
    with pytest.raises(VerificationError):
        unfolded(LAYERS["conv"][0], tmp_path, weight(COUNT, 3, 6, 7))
    assert (tmp_path / "unfolded.onnx").read_text() == "old"


def test_target_that_would_overwrite_the_weights_of_the_source_is_rejected(tmp_path: Path) -> None:
    proto = layer("Conv", ["n", 3, 5, 5], {"w": weight(64, 3, 3, 3), "b": weight(64)})
    onnx.save(proto, tmp_path / "net.onnx", save_as_external_data=True, location="out.onnx.data", size_threshold=0)
    np.savez(tmp_path / "samples.npz", x=weight(COUNT, 3, 5, 5))
    with pytest.raises(ModelFileError, match="would overwrite the weights"):
        unfold_file(tmp_path / "net.onnx", tmp_path / "out.onnx", tmp_path / "samples.npz")


def test_layer_in_a_subgraph_is_named(tmp_path: Path) -> None:
    out = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("o", "p")]
    branches = {
        "then_branch": helper.make_graph([helper.make_node("Conv", ["h", "w"], ["o"], name="in")], "then", [], out[:1]),
        "else_branch": helper.make_graph([helper.make_node("Identity", ["h"], ["p"])], "else", [], out[1:]),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["h"], name="out"),
        helper.make_node("If", ["which"], ["y"], **branches),
    ]
    constants = {"w": weight(3, 3, 1, 1), "which": np.array(True)}
    proto = model(nodes, {"x": ["n", 3, 2, 2]}, ["y"], constants, dtype=np.float32)

    _, found = unfolded(proto, tmp_path, weight(COUNT, 3, 2, 2))

    assert [one.behind for one in found.report.layers] == ["out"]
    assert "stands in the subgraph of a control flow node" in found.report.left[0]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pictures", "tensors"])
def test_file_that_takes_pixels_is_unfolded_with_pictures_or_pixels(tmp_path: Path, kind: str) -> None:
    onnx.save(colour_convnet(np.random.default_rng(0)), tmp_path / "net.onnx")
    fold_file(tmp_path / "net.onnx", tmp_path / "folded.onnx", pixels=FromPixels(COLOUR_CARD))
    pixels = np.random.default_rng(1).integers(0, 256, (COUNT, 3, 6, 6), np.uint8)
    (tmp_path / "samples").mkdir()
    for number, picture in enumerate(pixels):
        Image.fromarray(picture.transpose(1, 2, 0)).save(tmp_path / "samples" / f"{number:02}.png")
    np.savez(tmp_path / "samples.npz", x=pixels)
    given = tmp_path / ("samples" if kind == "pictures" else "samples.npz")

    found = unfold_file(
        tmp_path / "folded.onnx",
        tmp_path / "unfolded.onnx",
        given,
        COLOUR_CARD,
        as_tensors=None if kind == "pictures" else True,
    )

    assert found.verification.passes
    (conv,) = [node for node in onnx.load(tmp_path / "unfolded.onnx").graph.node if node.op_type == "Conv"]
    (h,) = run32(with_output(onnx.load(tmp_path / "unfolded.onnx"), conv.output[0]), {"x": pixels})
    constants = constants_of(onnx.load(tmp_path / "unfolded.onnx"))
    np.testing.assert_allclose(constants["conv.batchnorm.running_mean"], h.mean((0, 2, 3)), rtol=1e-3, atol=1e-3)
    assert_same_weights(onnx.load(tmp_path / "folded.onnx"), folded_again(tmp_path))
