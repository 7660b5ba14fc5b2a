"""Values beyond 65504: named, kept in float32 where that mends it, refused where it does not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from normfold.export.arrays import Array
from normfold.export.errors import Float16OverflowError
from normfold.export.quantize.float16.convert import convert_to_float16
from normfold.export.quantize.float16.result import Float16Result
from tests.support.onnx_models import model, run32, save_model

Convert = Callable[..., tuple[onnx.ModelProto, Float16Result]]

EYE = np.eye(4, dtype=np.float32)
ROWS = {"x": np.linspace(1, 12, 12, dtype=np.float32).reshape(3, 4)}
"""Up to 12, so that a weight of 10,000 gives 120,000."""


@dataclass(frozen=True)
class ChannelStatistics:
    """Statistics of a value, as the folded BatchNormalization gives them."""

    mean: Array
    std: Array
    folded_value: str | None = None


def network(nodes: list[onnx.NodeProto], opset: int = 17, **constants: object) -> onnx.ModelProto:
    """Make a float32 network x (n, 4) -> y."""
    arrays = {name: np.asarray(value) for name, value in constants.items()}
    return model(nodes, {"x": ["n", 4]}, ["y"], arrays, opset=opset, dtype=np.float32)


def two_layers(first: float, second: float = 1e-4) -> onnx.ModelProto:
    """Make two layers with a Relu between them, whose weights are multiples of the identity."""
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["h"], name="first"),
        helper.make_node("Relu", ["h"], ["r"], name="relu"),
        helper.make_node("MatMul", ["r", "w2"], ["y"], name="second"),
    ]
    return network(nodes, w1=first * EYE, w2=second * EYE)


def test_overflow_that_a_layer_reads_is_refused_and_named(tmp_path: Path) -> None:
    source, target = save_model(two_layers(10_000), tmp_path), tmp_path / "half.onnx"
    with pytest.raises(Float16OverflowError) as caught:
        convert_to_float16(source, target, inputs=ROWS)
    error = caught.value
    assert (error.node, error.value, error.magnitude) == ("first", "h", 120_000)
    assert str(error).startswith(
        "Node 'first' makes the value 'h', which reaches 120000 on the inputs; float16 ends at 65504."
    )
    assert not target.exists()


def test_cpu_provider_alone_does_not_show_the_overflow() -> None:
    """On a CPU, the same network in float16 gives finite numbers: that is why overflow is emulated."""
    nodes = [*two_layers(10_000).graph.node]
    arrays = {"w1": 10_000 * EYE.astype(np.float16), "w2": 1e-4 * EYE.astype(np.float16)}
    half = model(nodes, {"x": ["n", 4]}, ["y"], {k: v.astype(np.float16) for k, v in arrays.items()}, dtype=np.float16)
    (y,) = run32(half, {"x": ROWS["x"].astype(np.float16)}, optimised=True)
    assert np.isfinite(y).all()


def test_value_just_below_the_limit_is_converted(convert: Convert) -> None:
    _, report = convert(two_layers(5_000), inputs=ROWS)
    assert report.headroom is not None
    assert (report.headroom.node, report.headroom.value) == ("first", "h")
    assert report.headroom.magnitude == 60_000
    assert report.headroom.factor == pytest.approx(65_504 / 60_000)


def test_reduction_and_square_that_overflow_stay_float32(convert: Convert) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="layer"),
        helper.make_node("Mul", ["h", "h"], ["q"], name="square"),
        helper.make_node("ReduceMean", ["q"], ["m"], name="mean", axes=[1]),
        helper.make_node("Sqrt", ["m"], ["d"], name="root"),
        helper.make_node("Div", ["h", "d"], ["n"], name="divide"),
        helper.make_node("MatMul", ["n", "w"], ["y"], name="last"),
    ]
    source = network(nodes, w=100 * EYE)
    result, report = convert(source, inputs=ROWS)
    assert [each.node for each in report.float32_nodes] == ["square", "mean", "root"]
    assert report.float32_nodes[0].reason == "its result 'q' reaches 1.44e+06 on the inputs"
    np.testing.assert_allclose(run32(result, ROWS)[0], run32(source, ROWS)[0], rtol=2e-3)
    assert report.sqnr_db["y"] > 55


def test_layer_that_makes_an_output_beyond_the_limit_stays_float32(convert: Convert) -> None:
    source = two_layers(1, 10_000)
    result, report = convert(source, inputs=ROWS)
    assert [(each.node, each.reason) for each in report.float32_nodes] == [
        ("second", "its result 'y' reaches 120000 on the inputs")
    ]
    np.testing.assert_allclose(run32(result, ROWS)[0], run32(source, ROWS)[0], rtol=1e-3)


def test_float16_output_beyond_the_limit_is_refused(tmp_path: Path) -> None:
    source = save_model(two_layers(1, 10_000), tmp_path)
    with pytest.raises(Float16OverflowError, match="'second' makes the value 'y', which reaches 120000"):
        convert_to_float16(source, tmp_path / "half.onnx", keep_io=False, inputs=ROWS)


def test_statistics_alone_show_an_overflow(tmp_path: Path) -> None:
    source = save_model(two_layers(1), tmp_path)
    wide = ChannelStatistics(np.array([0.0, 100.0]), np.array([1.0, 8_200.0]), "h")
    with pytest.raises(
        Float16OverflowError, match="'first' makes the value 'h', which reaches 65700 by its statistics"
    ):
        convert_to_float16(source, tmp_path / "half.onnx", statistics={"bn": wide}, inputs=ROWS)


def test_statistics_below_the_limit_give_the_headroom(convert: Convert) -> None:
    narrow = ChannelStatistics(np.array([0.0, 100.0]), np.array([1.0, 8_000.0]))
    _, report = convert(two_layers(1), statistics={"h": narrow, "elsewhere": narrow}, inputs=ROWS)
    assert report.headroom is not None
    assert (report.headroom.value, report.headroom.magnitude) == ("h", 64_100)


@pytest.mark.parametrize("scale", [1e-4, 1.0])
def test_weight_beyond_the_limit_is_refused_and_named(tmp_path: Path, scale: float) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"], name="layer"), helper.make_node("Relu", ["h"], ["y"])]
    source = save_model(network(nodes, w=100_000 * EYE), tmp_path)
    with pytest.raises(Float16OverflowError, match="'layer' reads the value 'w', which reaches 100000 as a constant"):
        convert_to_float16(source, tmp_path / "half.onnx", inputs={"x": scale * 0.01 * ROWS["x"]})


def test_large_input_is_scaled_in_float32(convert: Convert) -> None:
    nodes = [
        helper.make_node("Mul", ["x", "s"], ["h"], name="scale"),
        helper.make_node("MatMul", ["h", "w"], ["y"], name="layer"),
    ]
    source, rows = network(nodes, s=np.float32(1e-5), w=EYE), {"x": 1e5 * ROWS["x"]}
    result, report = convert(source, inputs=rows)
    assert [(each.node, each.reason) for each in report.float32_nodes] == [
        ("scale", "it reads 'x', which reaches 1.2e+06 on the inputs")
    ]
    np.testing.assert_allclose(run32(result, rows)[0], run32(source, rows)[0], rtol=1e-3)


def test_bounds_of_a_clip_may_exceed_the_limit(convert: Convert) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Clip", ["h", "low", "high"], ["y"])]
    _, report = convert(network(nodes, w=EYE, low=np.float32(0), high=np.finfo(np.float32).max))
    assert not report.float32_nodes


def test_infinite_mask_is_no_overflow(convert: Convert) -> None:
    nodes = [helper.make_node("Add", ["x", "mask"], ["h"]), helper.make_node("Softmax", ["h"], ["y"])]
    source = network(nodes, mask=np.array([0, -np.inf, 0, 0], np.float32))
    result, report = convert(source, inputs=ROWS)
    assert not report.float32_nodes
    np.testing.assert_allclose(run32(result, ROWS)[0], run32(source, ROWS)[0], atol=1e-3)


def test_mask_of_the_smallest_float32_stays_float32(convert: Convert) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["s"]),
        helper.make_node("Add", ["s", "mask"], ["h"], name="add"),
        helper.make_node("Softmax", ["h"], ["p"], name="softmax"),
        helper.make_node("MatMul", ["p", "w"], ["y"]),
    ]
    source = network(nodes, w=EYE, mask=np.array([0, np.finfo(np.float32).min, 0, 0], np.float32))
    _, report = convert(source, inputs=ROWS)
    assert [each.node for each in report.float32_nodes] == ["add", "softmax"]


def test_divisor_that_float16_rounds_to_zero_stays_float32(convert: Convert) -> None:
    """A row of zeros is divided by 1e-12 in float32, which gives zero; in float16 it would be 0 / 0."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="layer"),
        helper.make_node("ReduceSumSquare", ["h"], ["q"], name="squares", axes=[1]),
        helper.make_node("Max", ["q", "epsilon"], ["m"], name="max"),
        helper.make_node("Expand", ["m", "shape"], ["e"], name="expand"),
        helper.make_node("Div", ["h", "e"], ["n"], name="divide"),
        helper.make_node("MatMul", ["n", "w"], ["y"], name="last"),
    ]
    source = network(nodes, w=EYE, epsilon=np.float32(1e-12), shape=np.array([1, 4]))
    rows = {"x": np.vstack([ROWS["x"], np.zeros((1, 4), np.float32)])}
    result, report = convert(source, inputs=ROWS)
    assert [each.node for each in report.float32_nodes] == ["max", "expand", "divide"]
    assert report.float32_nodes[0].reason == "float16 rounds its operand 'epsilon' to zero"
    np.testing.assert_allclose(run32(result, rows)[0], run32(source, rows)[0], atol=1e-3)


def test_result_that_is_not_finite_for_its_inputs_in_float16_stays_float32(convert: Convert) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="layer"),
        helper.make_node("Mul", ["h", "h"], ["q"], name="square"),
        helper.make_node("Log", ["q"], ["l"], name="log"),
        helper.make_node("MatMul", ["l", "v"], ["y"], name="last"),
    ]
    source = network(nodes, w=1e-4 * EYE, v=EYE)
    result, report = convert(source, inputs=ROWS)
    assert [each.node for each in report.float32_nodes] == ["square", "log"]
    np.testing.assert_allclose(run32(result, ROWS)[0], run32(source, ROWS)[0], rtol=1e-2)
