"""LSTM, GRU and RNN absorb an affine that comes before them, in W and in the first half of B."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from tests.support.onnx_models import assert_same, batchnorm, folded, model, operators, statistics

FEATURES, HIDDEN, STEPS = 5, 3, 7
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def recurrent(op_type: str, *, bias: bool = True, lengths: bool = False, **attributes: Any) -> onnx.ModelProto:
    """Make x (n, features, steps) -> Relu -> BatchNormalization -> Transpose -> recurrent layer -> y."""
    rng = np.random.default_rng(0)
    both = attributes.get("direction") == "bidirectional"
    directions, rows = 2 if both else 1, GATES[op_type] * HIDDEN
    perm = [0, 2, 1] if attributes.get("layout") else [2, 0, 1]
    inputs = ["t", "w", "r", "b" if bias else "", "lengths" if lengths else ""]
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        batchnorm("a", "n"),
        helper.make_node("Transpose", ["n"], ["t"], perm=perm),
        helper.make_node(op_type, inputs, ["y", "last"], name="layer", hidden_size=HIDDEN, **attributes),
    ]
    constants: dict[str, Any] = {
        "w": rng.normal(size=(directions, rows, FEATURES)),
        "r": rng.normal(size=(directions, rows, HIDDEN)),
        "b": rng.normal(size=(directions, 2 * rows)),
    } | statistics(rng, FEATURES)
    constants = {name: array.astype(np.float32) for name, array in constants.items()}
    constants |= {"lengths": np.array([STEPS, 2], np.int32)} if lengths else {}
    constants = constants if bias else {name: array for name, array in constants.items() if name != "b"}
    return model(nodes, {"x": [2, FEATURES, "steps"]}, ["y", "last"], constants, opset=17, dtype=np.float32)


def rows() -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(1).normal(size=(2, FEATURES, STEPS)).astype(np.float32)}


@pytest.mark.parametrize("op_type", GATES)
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("lengths", [True, False])
def test_recurrent_layer_absorbs(op_type: str, direction: str, bias: bool, lengths: bool) -> None:
    source = recurrent(op_type, bias=bias, lengths=lengths, direction=direction)

    result, report = folded(source)

    assert operators(result) == ["Relu", "Transpose", op_type]
    assert report.entries[0].into == ("layer",)
    assert_same(source, result, rows())


@pytest.mark.parametrize("before", [0, 1])
def test_gru_absorbs_wherever_the_reset_gate_stands(before: int) -> None:
    source = recurrent("GRU", linear_before_reset=before)

    result, _ = folded(source)

    assert operators(result) == ["Relu", "Transpose", "GRU"]
    assert_same(source, result, rows())


def test_lstm_with_peepholes_and_clip_absorbs() -> None:
    source = recurrent("LSTM", clip=0.5)
    layer = source.graph.node[-1]
    layer.input.extend(["", "", "p"])
    peepholes = np.random.default_rng(3).normal(size=(1, 3 * HIDDEN)).astype(np.float32)
    source.graph.initializer.append(onnx.numpy_helper.from_array(peepholes, "p"))

    result, _ = folded(source)

    assert operators(result) == ["Relu", "Transpose", "LSTM"]
    assert_same(source, result, rows())


@pytest.mark.parametrize("op_type", GATES)
def test_recurrent_layer_with_the_batch_first_absorbs(op_type: str) -> None:
    """ONNX Runtime has no kernel for layout 1: the constants are those of layout 0; features come last in both."""
    results = [folded(recurrent(op_type, layout=layout))[0] for layout in (0, 1)]

    for result in results:
        assert operators(result) == ["Relu", "Transpose", op_type]
    first, second = ({one.name: one for one in result.graph.initializer} for result in results)
    assert first.keys() == second.keys()
    assert all(first[name] == second[name] for name in first)


def test_weight_that_two_recurrent_layers_share_is_copied() -> None:
    source = recurrent("LSTM")
    source.graph.node.append(
        helper.make_node("LSTM", ["plain", "w", "r", "b"], ["z"], name="other", hidden_size=HIDDEN)
    )
    source.graph.node.insert(0, helper.make_node("Transpose", ["x"], ["plain"], perm=[2, 0, 1]))
    source.graph.output.append(onnx.ValueInfoProto(name="z"))
    source = onnx.shape_inference.infer_shapes(source)

    result, report = folded(source)

    assert report.batchnorm_after == 0
    assert_same(source, result, rows())


def test_affine_that_varies_along_the_steps_keeps() -> None:
    rng = np.random.default_rng(4)
    source = recurrent("LSTM")
    source.graph.node[2].attribute[0].CopyFrom(helper.make_attribute("perm", [1, 0, 2]))
    weight = rng.normal(size=(1, 4 * HIDDEN, STEPS)).astype(np.float32)
    source.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(weight, "w"))
    source.graph.input[0].type.tensor_type.shape.dim[2].dim_value = STEPS

    result, report = folded(source)

    assert report.entries[0].reason_codes[1] == "not-per-channel"
    assert_same(source, result, rows())


@pytest.mark.parametrize(("place", "code"), [(1, "weights-not-constant"), (5, "operator")])
def test_value_that_is_no_sequence_keeps(place: int, code: str) -> None:
    """The BatchNormalization makes W, or the first hidden state."""
    rng = np.random.default_rng(5)
    shape = (1, 4 * HIDDEN, FEATURES) if place == 1 else (1, 2, HIDDEN)
    inputs = ["x", "w", "r", "", "", ""]
    inputs[place] = "n"
    nodes = [
        helper.make_node("Relu", ["z"], ["a"]),
        batchnorm("a", "n"),
        helper.make_node("LSTM", inputs, ["y"], name="layer", hidden_size=HIDDEN),
    ]
    constants = {
        "w": rng.normal(size=(1, 4 * HIDDEN, FEATURES)),
        "r": rng.normal(size=(1, 4 * HIDDEN, HIDDEN)),
    } | statistics(rng, shape[1])
    constants = {name: array.astype(np.float32) for name, array in constants.items()}
    inputs_of_graph = {"x": [STEPS, 2, FEATURES], "z": list(shape)}
    source = model(nodes, inputs_of_graph, ["y"], constants, dtype=np.float32)

    _, report = folded(source)

    assert report.entries[0].reason_codes[1] == code


def test_recurrent_layer_takes_no_affine_on_its_output() -> None:
    rng = np.random.default_rng(6)
    nodes = [
        helper.make_node("LSTM", ["x", "w", "r"], ["h"], name="layer", hidden_size=HIDDEN),
        helper.make_node("Squeeze", ["h", "ax"], ["s"]),
        helper.make_node("Transpose", ["s"], ["t"], perm=[1, 2, 0]),
        batchnorm("t", "y"),
    ]
    constants = {
        "w": rng.normal(size=(1, 4 * HIDDEN, FEATURES)),
        "r": rng.normal(size=(1, 4 * HIDDEN, HIDDEN)),
    } | statistics(rng, HIDDEN)
    constants = {name: array.astype(np.float32) for name, array in constants.items()} | {"ax": np.array([1])}
    source = model(nodes, {"x": ["steps", "n", FEATURES]}, ["y"], constants, dtype=np.float32)

    _, report = folded(source)

    assert report.entries[0].reason_code == "non-linear/graph-output"
