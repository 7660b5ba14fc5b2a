"""Names of the network that ONNX Runtime's quantiser gives out too: all of the network's stay, ours give way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from normfold.export.quantize.int8.value_names import constant_name, number_values, restore_names
from normfold.export.quantize.proof.constants import check_constants
from normfold.export.quantize.proof.rows import ProofRows
from normfold.export.quantize.proof.worst_layer import find_worst_layer
from tests.support.onnx_models import SAMPLES, quantised, run32, sqnr_db
from tests.support.onnx_models import model as make_model


def network(names: dict[str, str]) -> onnx.ModelProto:
    """Make x (n, 6) -> Gemm, Relu, Gemm -> y, and h behind the first Gemm, of which some names are others."""
    rng = np.random.default_rng(0)
    called = {name: names.get(name, name) for name in ("x", "w", "b", "h", "r", "v", "y")}
    nodes = [
        helper.make_node("Gemm", [called["x"], called["w"], called["b"]], [called["h"]], name="first"),
        helper.make_node("Relu", [called["h"]], [called["r"]], name=names.get("relu", "relu")),
        helper.make_node("Gemm", [called["r"], called["v"]], [called["y"]], name="last"),
    ]
    constants = {"w": rng.normal(size=(6, 8)), "b": rng.normal(size=8), "v": rng.normal(size=(8, 4))}
    given = {called[name]: array.astype(np.float32) for name, array in constants.items()}
    return make_model(nodes, {called["x"]: ["n", 6]}, [called["y"], called["h"]], given, dtype=np.float32)


@pytest.mark.parametrize(
    "names",
    [
        {"v": "x_scale"},
        {"v": "x_zero_point"},
        {"v": "w_quantized"},
        {"w": "v_scale", "v": "v"},
        {"v": "r_QuantizeLinear_Output"},
        {"r": "h_QuantizeLinear_Input", "v": "h_QuantizeLinear_Output"},
        {"r": "x_DequantizeLinear_Output"},
        {"y": "x_scale", "h": "x_zero_point"},
        {"x": "w_scale", "y": "w_quantized"},
        {"relu": "x_QuantizeLinear"},
        {"b": "w_quantized_scale", "v": "first.bias_quantized"},
        {"w": "0.", "v": "0._scale", "r": "1._scale", "y": "2."},
    ],
)
def test_name_that_the_quantiser_gives_out_too_stays(tmp_path: Path, names: dict[str, str]) -> None:
    source = network(names)
    x = source.graph.input[0].name
    rows = {x: np.random.default_rng(1).normal(size=(64, 6)).astype(np.float32)}
    before, after, result = quantised(source, tmp_path, SAMPLES, rows)
    for ends in ("input", "output"):
        assert [each.name for each in getattr(after.graph, ends)] == [each.name for each in getattr(before.graph, ends)]
    for wanted, given in zip(run32(before, rows), run32(after, rows, optimised=True), strict=True):
        assert sqnr_db(wanted, given) > 28
    check_constants(tmp_path / "int8.onnx", result)
    worst = find_worst_layer(tmp_path / "folded.onnx", tmp_path / "int8.onnx", ProofRows(rows), changed=())
    assert worst is not None
    assert worst.sqnr_db > 28


def test_name_inside_a_body_stays(tmp_path: Path) -> None:
    """A body may call its own values as the quantiser does: ONNX lets none have the name of one outside."""
    rng = np.random.default_rng(0)

    def body(name: str, operator: str) -> onnx.GraphProto:
        output = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        return helper.make_graph([helper.make_node(operator, ["h"], [name])], operator, [], [output])

    nodes = [
        helper.make_node("Gemm", ["x", "w"], ["h"], name="first"),
        helper.make_node("ReduceSum", ["h"], ["s"], keepdims=0),
        helper.make_node("Greater", ["s", "zero"], ["c"]),
        helper.make_node("If", ["c"], ["i"], then_branch=body("i_scale", "Relu"), else_branch=body("h_scale", "Abs")),
        helper.make_node("Gemm", ["i", "v"], ["y"], name="last"),
    ]
    constants = {"w": rng.normal(size=(6, 8)), "v": rng.normal(size=(8, 4)), "zero": np.array(0)}
    given = {name: array.astype(np.float32) for name, array in constants.items()}
    rows = {"x": rng.normal(size=(64, 6)).astype(np.float32)}
    source = make_model(nodes, {"x": ["n", 6]}, ["y"], given, dtype=np.float32)
    before, after, _ = quantised(source, tmp_path, SAMPLES, rows)
    assert sqnr_db(run32(before, rows)[0], run32(after, rows, optimised=True)[0]) > 28


def test_names_come_back_and_what_was_made_gives_way() -> None:
    graph = make_model(
        [helper.make_node("Add", ["x", "x_scale"], ["y"])],
        {"x": [2]},
        ["y"],
        {"x_scale": np.zeros(2, np.float32)},
        dtype=np.float32,
    ).graph
    numbers = number_values(graph)
    assert [*graph.node[0].input, *graph.node[0].output] == [numbers[name] for name in ("x", "x_scale", "y")]
    number = numbers["x"]
    graph.node.append(helper.make_node("QuantizeLinear", [number, f"{number}_scale"], [f"{number}_quantized"]))
    restore_names(graph, numbers)
    assert [*graph.node[0].input, *graph.node[0].output] == ["x", "x_scale", "y"]
    assert [*graph.node[1].input, *graph.node[1].output] == ["x", "x_scale.1", "x_quantized"]


@pytest.mark.parametrize(
    ("name", "constant"),
    [("w_quantized", "w"), ("w_quantized.12", "w"), ("w_quantized_quantized", "w_quantized"), ("w.1", "w.1")],
)
def test_constant_of_a_name_is_that_without_the_suffix(name: str, constant: str) -> None:
    assert constant_name(name) == constant
