"""Graphs at the edge of what a fold assumes: ranks, types, declared shapes, narrow floats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from normfold.contract.errors import WriteError
from normfold.export.errors import FoldError, ModelFileError, PixelError
from normfold.export.files.fold_file import fold_file
from normfold.export.graph.pixels import FromPixels
from normfold.export.verify.verify import verify
from tests.support.onnx_models import COLOUR_CARD, assert_same, batchnorm, folded, model, operators, statistics


def test_stated_shapes_of_other_inputs_are_ignored() -> None:
    """A network exported for 32 × 32 pictures, whose input was made free afterwards: its values still say 32."""
    rng = np.random.default_rng(0)
    nodes = [
        batchnorm("x", "b"),
        helper.make_node("Conv", ["b", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["c"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "g"], ["y"]),
    ]
    constants = {"w": rng.normal(size=(4, 3, 3, 3)), "g": rng.normal(size=(4, 5))} | statistics(rng, 3)
    source = model(nodes, {"x": ["n", 3, 32, 32]}, ["y"], constants)
    for axis, name in ((2, "height"), (3, "width")):
        source.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = name

    result, report = folded(source)

    assert report.entries[0].reason_code == "graph-input/zero-padding"
    assert_same(source, result, {"x": rng.normal(size=(2, 3, 8, 9))})


def test_verification_tries_more_than_one_size(tmp_path: Path) -> None:
    """What is right for pictures of one size alone is not right."""
    shape = ["n", 1, "height", "width"]
    mean = model([helper.make_node("GlobalAveragePool", ["x"], ["y"])], {"x": shape}, ["y"], {}, dtype=np.float32)
    wrong = model(
        [helper.make_node("ReduceSum", ["x", "axes"], ["s"]), helper.make_node("Div", ["s", "size"], ["y"])],
        {"x": shape},
        ["y"],
        {"axes": np.array([2, 3]), "size": np.array(32 * 32, np.float32)},
        dtype=np.float32,
    )
    for name, proto in (("a", mean), ("b", wrong)):
        onnx.save(proto, tmp_path / f"{name}.onnx")

    assert not verify(tmp_path / "a.onnx", tmp_path / "b.onnx").passes


@pytest.mark.parametrize("op_type", ["Mul", "Div"])
def test_a_factor_of_lower_rank_takes_no_affine_with_it(op_type: str) -> None:
    rng = np.random.default_rng(1)
    zero = {"bn.shift": np.zeros(4), "bn.mean": np.zeros(4)}
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        batchnorm("r", "b"),
        helper.make_node(op_type, ["b", "z"], ["p"]),
        helper.make_node("Conv", ["p", "w"], ["y"]),
    ]
    constants = {"w": rng.normal(size=(2, 4, 1, 1))} | statistics(rng, 4) | zero
    source = model(nodes, {"x": [4, 4], "z": ["n", 4, 4, 4]}, ["y"], constants)

    result, report = folded(source)

    assert report.batchnorm_after == 1
    assert_same(source, result, {"x": rng.normal(size=(4, 4)), "z": rng.uniform(1, 2, size=(2, 4, 4, 4))})


@pytest.mark.parametrize(
    "nodes",
    [
        [helper.make_node("MatMul", ["a", "b"], ["m"]), helper.make_node("Add", ["m", "k"], ["y"])],
        [helper.make_node("Mul", ["b", "j"], ["m"]), helper.make_node("MatMul", ["a", "m"], ["y"])],
        [helper.make_node("MatMul", ["b", "c"], ["m"]), helper.make_node("Mul", ["m", "k"], ["y"])],
    ],
)
def test_products_with_a_vector_are_left_alone(nodes: Any) -> None:
    rng = np.random.default_rng(2)
    inputs = {
        name: shape for name, shape in (("a", [4, 5]), ("b", [5]), ("c", [5, 4])) if any(name in n.input for n in nodes)
    }
    source = model(nodes, inputs, ["y"], {"k": rng.normal(size=4), "j": rng.normal(size=5)})

    result, _ = folded(source)

    assert_same(source, result, {name: rng.normal(size=shape) for name, shape in inputs.items()})


def test_the_statistics_of_a_layer_normalization_carry_no_affine() -> None:
    rng = np.random.default_rng(3)
    nodes = [
        helper.make_node("LayerNormalization", ["x", "s", "b"], ["l", "mean"]),
        helper.make_node("Mul", ["mean", "k"], ["y"]),
    ]
    constants = {name: rng.normal(size=shape).astype(np.float32) for name, shape in (("s", 8), ("b", 8), ("k", (6, 1)))}
    source = model(nodes, {"x": [3, 6, 8]}, ["l", "y"], constants, dtype=np.float32)

    result, _ = folded(source)

    assert operators(result) == ["LayerNormalization", "Mul"]


def test_a_value_without_a_type_takes_the_outputs() -> None:
    """Onnx infers nothing of GroupNormalization from opset 21 on."""
    rng = np.random.default_rng(4)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["q"]),
        helper.make_node("GroupNormalization", ["q", "s", "t"], ["h"], num_groups=2),
        batchnorm("h", "y"),
    ]
    constants = {"w": rng.normal(size=(4, 4, 1, 1)), "s": rng.normal(size=4), "t": rng.normal(size=4)}
    ports = [helper.make_tensor_value_info(name, TensorProto.DOUBLE, ["n", 4, 3, 3]) for name in ("x", "y")]
    weights = [numpy_helper.from_array(array, name) for name, array in (constants | statistics(rng, 4)).items()]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], weights)
    source = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)

    result, report = folded(source)

    assert report.batchnorm_after == 0
    assert_same(source, result, {"x": rng.normal(size=(2, 4, 3, 3))})


def half(nodes: list[onnx.NodeProto], constants: dict[str, Any], shape: list[Any]) -> onnx.ModelProto:
    narrow = {name: array.astype(np.float16) if array.dtype.kind == "f" else array for name, array in constants.items()}
    return model(nodes, {"x": shape}, ["y"], narrow, dtype=np.float16)


def eye(factor: float) -> np.ndarray:
    return (factor * np.eye(3)).reshape(3, 3, 1, 1)


def same(name: str, **changes: float) -> dict[str, np.ndarray]:
    """Make BatchNormalization parameters that are the same in all channels."""
    numbers = {"scale": 1.0, "shift": 0.0, "mean": 0.0, "var": 1.0} | changes
    return {f"{name}.{field}": np.full(3, number, np.float64) for field, number in numbers.items()}


OVERFLOWING: dict[str, tuple[list[onnx.NodeProto], dict[str, Any]]] = {
    "layers in a row": (
        [helper.make_node("Conv", ["s", "a"], ["h"]), helper.make_node("Conv", ["h", "b"], ["y"])],
        {"a": eye(400), "b": eye(200)},
    ),
    "branches": (
        [
            helper.make_node("Conv", ["s", "a"], ["h"]),
            helper.make_node("Conv", ["s", "b"], ["g"]),
            helper.make_node("Add", ["h", "g"], ["y"]),
        ],
        {"a": eye(40_000), "b": eye(40_000)},
    ),
    "a constant": (
        [
            helper.make_node("Relu", ["s"], ["r"]),
            batchnorm("r", "n"),
            helper.make_node("Add", ["n", "k"], ["t"]),
            helper.make_node("Conv", ["t", "a"], ["y"]),
        ],
        {"k": np.full((1, 3, 1, 1), 50.0), "a": eye(1)}
        | dict(
            zip(
                ("bn.scale", "bn.shift", "bn.mean", "bn.var"),
                np.array([[1e-3] * 3, [100] * 3, [0] * 3, [1] * 3]),
                strict=True,
            )
        ),
    ),
    "another BatchNormalization": (
        [batchnorm("s", "n", "bn"), batchnorm("n", "y", "second")],
        same("bn", scale=300) | same("second", scale=300),
    ),
}


@pytest.mark.parametrize("name", OVERFLOWING)
def test_fold_beyond_float16_is_kept_and_the_rest_verified(name: str, tmp_path: Path) -> None:
    nodes, constants = OVERFLOWING[name]
    small = helper.make_node("Mul", ["x", "small"], ["s"])
    onnx.save(half([small, *nodes], constants | {"small": np.array(1e-3)}, ["n", 3, 4, 4]), tmp_path / "a.onnx")

    report = fold_file(tmp_path / "a.onnx", tmp_path / "b.onnx")

    assert report.verification is not None
    assert report.verification.passes


@pytest.mark.slow
def test_float16_behind_a_cast_and_quanta_have_noise_of_their_own(tmp_path: Path) -> None:
    """One unit in the last place of a float32 input vanishes in the first rounding; a right fold moves the weights."""
    rng = np.random.default_rng(5)
    nodes = [
        helper.make_node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16),
        helper.make_node("Conv", ["h", "w"], ["c"], pads=[1, 1, 1, 1]),
        batchnorm("c", "n"),
        helper.make_node("Relu", ["n"], ["r"]),
        helper.make_node("Cast", ["r"], ["y"], to=TensorProto.FLOAT),
    ]
    constants = {"w": rng.normal(size=(16, 3, 3, 3)).astype(np.float16)} | statistics(rng, 16, dtype=np.float16)
    constants["bn.var"] = np.maximum(constants["bn.var"], np.float16(0.1))
    onnx.save(model(nodes, {"x": ["n", 3, 32, 32]}, ["y"], constants, dtype=np.float32), tmp_path / "half.onnx")
    quantised = [
        helper.make_node("QuantizeLinear", ["x", "step", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "step", "zero"], ["d"]),
        helper.make_node("Conv", ["d", "w"], ["c"]),
        batchnorm("c", "n"),
        helper.make_node("Relu", ["n"], ["r"]),
        helper.make_node("QuantizeLinear", ["r", "step", "zero"], ["p"]),
        helper.make_node("DequantizeLinear", ["p", "step", "zero"], ["y"]),
    ]
    constants = {"w": rng.normal(size=(8, 3, 3, 3)).astype(np.float32)} | statistics(rng, 8, dtype=np.float32)
    constants |= {"step": np.array(0.05, np.float32), "zero": np.array(3, np.uint8)}
    onnx.save(
        model(quantised, {"x": ["n", 3, 96, 96]}, ["y"], constants, dtype=np.float32), tmp_path / "quantised.onnx"
    )

    for name in ("half", "quantised"):
        report = fold_file(tmp_path / f"{name}.onnx", tmp_path / "folded.onnx")
        assert report.report.batchnorm_after == 0
        assert report.verification is not None
        assert report.verification.passes


def test_resize_that_mixes_channels_rejects_an_affine() -> None:
    rng = np.random.default_rng(6)
    nodes = [
        batchnorm("x", "n"),
        helper.make_node("Resize", ["n", "", "scales"], ["r"], mode="linear"),
        helper.make_node("Conv", ["r", "w"], ["y"]),
    ]
    constants = {"scales": np.array([1, 1.2, 1, 1], np.float32), "w": rng.normal(size=(2, 4, 1, 1))}
    source = model(nodes, {"x": [1, 4, 3, 3]}, ["y"], constants | statistics(rng, 4))

    _, report = folded(source)

    assert report.entries[0].reason_code == "graph-input/resized-axis"


def test_a_mask_that_is_read_is_not_written_out() -> None:
    nodes = [helper.make_node("Dropout", ["x"], ["d", "mask"]), helper.make_node("Relu", ["d"], ["y"])]
    source = model(nodes, {"x": ["n", 4]}, ["y", "mask"], {})

    result, _ = folded(source)

    assert operators(result) == ["Dropout", "Relu"]


@pytest.mark.parametrize("reads", [False, True])
def test_pixels_need_a_reader_and_no_caller(reads: bool, tmp_path: Path) -> None:
    node = helper.make_node("Identity" if reads else "Neg", ["x" if reads else "k"], ["y"])
    source = model([node], {"x": ["n", 3, 6, 6]}, ["y"], {"k": np.ones((1, 3), np.float32)}, dtype=np.float32)
    if reads:
        source.graph.output.append(source.graph.input[0])
    onnx.save(source, tmp_path / "a.onnx")

    with pytest.raises(PixelError, match="read by nothing, or is an output too"):
        fold_file(tmp_path / "a.onnx", tmp_path / "b.onnx", pixels=FromPixels(COLOUR_CARD))


@pytest.mark.parametrize("target", [".", "/", "folder"])
def test_a_folder_is_no_target(target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    onnx.save(model([helper.make_node("Relu", ["x"], ["y"])], {"x": ["n", 3]}, ["y"], {}), tmp_path / "a.onnx")

    with pytest.raises(WriteError, match="it is a folder"):
        fold_file(tmp_path / "a.onnx", Path(target))


@pytest.mark.parametrize("contradicts", [True, False])
def test_file_that_contradicts_itself_is_named_as_the_fault(
    contradicts: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LayerNormalization's mean is float32, whatever its input is."""
    node = helper.make_node("LayerNormalization", ["x", "s"], ["y", "mean"])
    source = model([node], {"x": ["n", 4]}, ["y", "mean"], {"s": np.ones(4)})
    if contradicts:
        source.graph.output[1].type.tensor_type.elem_type = TensorProto.DOUBLE
    onnx.save(source, tmp_path / "a.onnx")

    def fail(_: Any) -> None:
        raise FoldError("planted")

    monkeypatch.setattr("normfold.export.fold.stages.finish.check_result", fail)
    with pytest.raises(ModelFileError if contradicts else FoldError, match="contradicts itself|planted"):
        fold_file(tmp_path / "a.onnx", tmp_path / "b.onnx")
    assert not (tmp_path / "b.onnx").exists()


def test_model_that_random_inputs_do_not_suit_asks_for_inputs(tmp_path: Path) -> None:
    """A table of eight rows and nine columns: no size runs for both, and the original is named, not the result."""
    nodes = [helper.make_node("Add", ["x", "table"], ["y"])]
    table = numpy_helper.from_array(np.zeros((1, 8, 9), np.float32), "table")
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", "rows", "columns"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", "rows", "columns"])],
        [table],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), tmp_path / "a.onnx")

    with pytest.raises(ModelFileError, match=r"a\.onnx' failed to run.*give some that suit it"):
        fold_file(tmp_path / "a.onnx", tmp_path / "b.onnx")
    assert onnxruntime.InferenceSession(tmp_path / "a.onnx", providers=["CPUExecutionProvider"])
