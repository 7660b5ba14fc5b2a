"""The nodes that are quantised: what ONNX Runtime's quantiser would take away from other readers of a value stays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper

from normfold.export.quantize.proof.constants import check_constants
from tests.support.onnx_models import SAMPLES, STATISTICS, batchnorm, model, quantised, run32, sqnr_db, statistics
from tests.support.onnx_models import with_statistics_of as fitted

ROWS = {"x": np.random.default_rng(1).normal(size=(64, 4, 6, 6)).astype(np.float32)}


def network(
    nodes: list[NodeProto], outputs: list[str], constants: dict[str, np.ndarray] | None = None
) -> onnx.ModelProto:
    """Make a Conv and BatchNormalization from x (n, 4, 6, 6) to n (n, 8, 6, 6), and some nodes behind."""
    rng = np.random.default_rng(0)
    given = {
        "w": rng.normal(size=(8, 4, 3, 3)) / 6,
        "v": rng.normal(size=(5, 8, 1, 1)),
        "u": rng.normal(size=(8, 8, 1, 1)) / 3,
        **statistics(rng, 8),
        "bn.scale": rng.uniform(0.5, 1.5, 8),
        "bn.shift": rng.normal(size=8),
    }
    first = [helper.make_node("Conv", ["x", "w"], ["c"], pads=[1] * 4, name="first"), batchnorm("c", "n")]
    tensors = {name: array.astype(np.float32) for name, array in given.items()} | (constants or {})
    return fitted(model([*first, *nodes], {"x": ["n", 4, 6, 6]}, outputs, tensors, dtype=np.float32), ROWS)


def body(name: str, operator: str, *read: str) -> onnx.GraphProto:
    """Make a body that reads values of the graph around it."""
    output = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
    return helper.make_graph([helper.make_node(operator, list(read), [name])], name, [], [output])


def conditional(then: onnx.GraphProto, otherwise: onnx.GraphProto) -> list[NodeProto]:
    """Make nodes from r to i, of which the first body runs."""
    return [
        helper.make_node("ReduceMax", ["r"], ["s"], keepdims=0),
        helper.make_node("Greater", ["s", "below"], ["c0"]),
        helper.make_node("If", ["c0"], ["i"], then_branch=then, else_branch=otherwise, name="if"),
    ]


WAYS = [pytest.param(STATISTICS, marks=pytest.mark.slow), SAMPLES]
BELOW = {"below": np.float32(-1e3)}
RELU = helper.make_node("Relu", ["n"], ["r"], name="relu")
LAST = helper.make_node("Conv", ["r", "v"], ["y"], name="last")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("low", [None, -0.5, 0.5])
def test_value_before_a_relu_or_clip_keeps_its_range_as_an_output(tmp_path: Path, low: float | None, way: str) -> None:
    clip = helper.make_node("Clip", ["n", "low", "high"], ["r"], name="clip")
    constants = {"low": np.float32(low or 0), "high": np.float32(2)}
    source = network([RELU if low is None else clip, LAST], ["y", "n"], {} if low is None else constants)
    before, after, result = quantised(source, tmp_path, way, ROWS)
    for wanted, given in zip(run32(before, ROWS), run32(after, ROWS, optimised=True), strict=True):
        assert sqnr_db(wanted, given) > 25
    check_constants(tmp_path / "int8.onnx", result)
    assert {"n", "y"} <= result.ranges.keys()


@pytest.mark.parametrize(("low", "high"), [(0.5, 2.0), (-2.0, -0.5)])
def test_clip_to_bounds_on_one_side_of_0_stays(tmp_path: Path, low: float, high: float) -> None:
    """Every scale holds 0, so that rounding does not clip to a bound above it."""
    clip = helper.make_node("Clip", ["n", "low", "high"], ["r"], name="clip")
    source = network([clip, LAST], ["y"], {"low": np.float32(low), "high": np.float32(high)})
    before, after, _ = quantised(source, tmp_path, SAMPLES, ROWS)
    assert "Clip" in [node.op_type for node in after.graph.node]
    assert sqnr_db(run32(before, ROWS)[0], run32(after, ROWS, optimised=True)[0]) > 25


def test_relu_of_an_input_keeps_the_range_of_the_input(tmp_path: Path) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["a"]), helper.make_node("Conv", ["a", "w"], ["y"], name="only")]
    weight = np.random.default_rng(0).normal(size=(3, 4, 1, 1)).astype(np.float32)
    source = model(nodes, {"x": ["n", 4, 6, 6]}, ["y"], {"w": weight}, dtype=np.float32)
    before, after, result = quantised(source, tmp_path, SAMPLES, ROWS)
    check_constants(tmp_path / "int8.onnx", result)
    assert sqnr_db(run32(before, ROWS)[0], run32(after, ROWS, optimised=True)[0]) > 28


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("read", "operator"), [(("r", "u"), "Conv"), (("n", "u"), "Conv"), (("n",), "Abs"), (("r",), "Identity")]
)
def test_body_reads_what_it_did(tmp_path: Path, read: tuple[str, ...], operator: str, way: str) -> None:
    """A weight that only a body reads stays, and a Relu before or behind what it reads is not rounded away."""
    nodes = [RELU, *conditional(body("t", operator, *read), body("e", "Neg", "r"))]
    nodes.append(helper.make_node("Conv", ["i", "v"], ["y"], name="last"))
    source = network(nodes, ["y"], BELOW)
    before, after, result = quantised(source, tmp_path, way, ROWS)
    assert result.layers == ("first", "last")
    assert sqnr_db(run32(before, ROWS)[0], run32(after, ROWS, optimised=True)[0]) > 25
    sentence = "1 of the network's layers is inside a body of control flow, where all stays in float32."
    assert result.warnings == ((sentence,) if operator == "Conv" else ())


def test_weight_that_a_body_and_a_layer_read_stays_in_both(tmp_path: Path) -> None:
    nodes = [RELU, *conditional(body("t", "Conv", "r", "u"), body("e", "Neg", "r"))]
    nodes += [helper.make_node("Conv", ["i", "u"], ["j"], name="shared"), helper.make_node("Conv", ["j", "v"], ["y"])]
    before, after, _ = quantised(network(nodes, ["y"], BELOW), tmp_path, SAMPLES, ROWS)
    assert sqnr_db(run32(before, ROWS)[0], run32(after, ROWS, optimised=True)[0]) > 25


@pytest.mark.parametrize("way", WAYS)
def test_cubic_resize_stays_float(tmp_path: Path, way: str) -> None:
    """What it gives exceeds what it takes, whose scale it would have."""
    resize = helper.make_node("Resize", ["n", "", "scales"], ["r"], mode="cubic", name="resize")
    source = network([resize, LAST], ["y"], {"scales": np.array([1, 1, 2, 2], np.float32)})
    before, after, result = quantised(source, tmp_path, way, ROWS)
    check_constants(tmp_path / "int8.onnx", result)
    assert sqnr_db(run32(before, ROWS)[0], run32(after, ROWS, optimised=True)[0]) > 25
    (node,) = [node for node in after.graph.node if node.op_type == "Resize"]
    assert node.input[0] in {"n_DequantizeLinear_Output", "n"}
    assert "r" in result.ranges


@pytest.mark.slow
def test_value_that_shares_a_scale_lies_within_the_range_of_its_source(tmp_path: Path) -> None:
    """An average is no larger than what it is of, whatever its own statistics say."""
    nodes = [
        helper.make_node("Sigmoid", ["n"], ["s"]),
        helper.make_node("AveragePool", ["s"], ["p"], kernel_shape=[2, 2]),
        helper.make_node("MaxPool", ["p"], ["m"], kernel_shape=[2, 2]),
        helper.make_node("Conv", ["m", "v"], ["y"], name="last"),
    ]
    before, after, result = quantised(network(nodes, ["y", "p", "s"]), tmp_path, STATISTICS)
    check_constants(tmp_path / "int8.onnx", result)
    low, high = result.ranges["s"]
    assert result.ranges["p"][0] >= min(low, 0)
    assert result.ranges["p"][1] <= high
    assert sqnr_db(run32(before, ROWS)[0], run32(after, ROWS, optimised=True)[0]) > 25


@pytest.mark.parametrize("way", WAYS)
def test_average_next_to_nothing_stays_float(tmp_path: Path, way: str) -> None:
    """ONNX Runtime's int8 kernel refuses to run where the scales are too far apart."""
    nodes = [
        RELU,
        helper.make_node("GlobalAveragePool", ["r"], ["mean"]),
        helper.make_node("Sub", ["r", "mean"], ["d"]),
        helper.make_node("GlobalAveragePool", ["d"], ["p"]),  # 0, but for rounding
        helper.make_node("Conv", ["p", "v"], ["q"], name="behind"),
        helper.make_node("Conv", ["d", "v"], ["e"], name="beside"),
        helper.make_node("Add", ["q", "e"], ["y"]),
    ]
    before, after, result = quantised(network(nodes, ["y"]), tmp_path, way, ROWS)
    assert result.layers == ("first", "beside")
    assert sqnr_db(run32(before, ROWS)[0], run32(after, ROWS, optimised=True)[0]) > 22


@pytest.mark.parametrize("way", WAYS)
def test_input_that_is_an_output_too_stays(tmp_path: Path, way: str) -> None:
    source = network([RELU, LAST], ["y", "r"])
    source.graph.output.insert(1, source.graph.input[0])
    before, after, _ = quantised(source, tmp_path, way, ROWS)
    assert [each.name for each in after.graph.output] == ["y", "x", "r"]
    wanted, given = run32(before, ROWS), run32(after, ROWS, optimised=True)
    np.testing.assert_array_equal(given[1], ROWS["x"])
    assert sqnr_db(wanted[0], given[0]) > 25


@pytest.mark.slow
def test_weights_in_another_file_are_found_before_the_fold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)  # ONNX Runtime would look for them here
    source = network([RELU, LAST], ["y"])
    onnx.save(source, tmp_path / "other.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    stored = onnx.load(tmp_path / "other.onnx", load_external_data=False)
    before, after, _ = quantised(stored, tmp_path, STATISTICS)
    assert sqnr_db(run32(before, ROWS)[0], run32(after, ROWS, optimised=True)[0]) > 25
