"""Where, Max and Min: infinite constants, branches that broadcast, several constants."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper

from tests.support.onnx_models import assert_same, batchnorm, folded, model, operators, run32, statistics


def node(op_type: str, inputs: str, output: str, **attributes: Any) -> NodeProto:
    return helper.make_node(op_type, inputs.split(), [output], **attributes)


MASK = node("Greater", "z limit", "mask")


def masked(constant: Any, scale: float = 1.0, op_type: str = "Where") -> tuple[onnx.ModelProto, dict[str, Any]]:
    """Make Conv, Where with a constant, BatchNormalization, Tanh; every gain has the sign of `scale`."""
    rng = np.random.default_rng(0)
    inputs = "mask k c" if op_type == "Where" else "c k"
    nodes = [MASK, node("Conv", "x w", "c"), node(op_type, inputs, "m"), batchnorm("m", "b"), node("Tanh", "b", "y")]
    constants: dict[str, Any] = {"w": rng.normal(size=(4, 3, 1, 1)), "limit": np.float64(0), "k": np.asarray(constant)}
    constants |= statistics(rng, 4)
    constants["bn.scale"] = scale * (np.abs(constants["bn.scale"]) + 0.5)
    source = model(nodes, {"x": ["n", 3, "h", "w"], "z": ["n", 1, "h", "w"]}, ["y"], constants)
    return source, {"x": rng.normal(size=(2, 3, 4, 5)), "z": rng.normal(size=(2, 1, 4, 5))}


def test_where_with_a_scalar_constant_gets_a_vector_of_offsets() -> None:
    source, rows = masked(0.0)

    result, report = folded(source)

    assert report.batchnorm_after == 0
    assert operators(result) == ["Greater", "Conv", "Where", "Tanh"]
    (constant,) = [one for one in result.graph.initializer if one.name == "k"]
    assert list(constant.dims) == [1, 4, 1, 1]
    assert_same(source, result, rows)


def test_where_with_an_infinite_constant_keeps_it_for_positive_gains() -> None:
    source, rows = masked(-np.inf)

    result, report = folded(source)

    assert report.batchnorm_after == 0
    assert [list(one.dims) for one in result.graph.initializer if one.name == "k"] == [[]]
    assert_same(source, result, rows)


@pytest.mark.parametrize("scale", [-1.0, 0.0])
def test_where_with_an_infinite_constant_rejects_other_gains(scale: float) -> None:
    source, _ = masked(-np.inf, scale)

    _, report = folded(source)

    (entry,) = report.entries
    assert entry.reason_code == "gain-sign/operator"
    assert "its constant is infinite" in (entry.reason or "")


def test_where_forwards_lets_an_infinite_constant_stay() -> None:
    rng = np.random.default_rng(1)
    nodes = [
        MASK,
        node("Tanh", "x", "t"),
        batchnorm("t", "b"),
        node("Where", "mask b k", "m"),
        node("GlobalMaxPool", "m", "p"),
        node("Conv", "p w", "y"),
    ]
    constants: dict[str, Any] = {"w": rng.normal(size=(5, 3, 1, 1)), "limit": np.float64(0), "k": np.float64(-np.inf)}
    constants |= statistics(rng, 3)
    constants["bn.scale"] = np.abs(constants["bn.scale"]) + 0.5
    source = model(nodes, {"x": ["n", 3, "h", "w"], "z": ["n", 1, "h", "w"]}, ["y"], constants)

    result, report = folded(source)

    assert report.batchnorm_after == 0
    assert_same(source, result, {"x": rng.normal(size=(2, 3, 4, 5)), "z": rng.normal(size=(2, 1, 4, 5))})


def test_where_forwards_keeps_a_constant_that_would_overflow() -> None:
    rng = np.random.default_rng(5)
    nodes = [node("Tanh", "x", "t"), batchnorm("t", "b"), node("Where", "mask b k", "m"), node("Conv", "m w", "y")]
    constants: dict[str, Any] = {"w": rng.normal(size=(5, 3, 1, 1)), "limit": np.float32(0), "k": np.float32(-3e38)}
    constants |= statistics(rng, 3)
    constants["bn.scale"], constants["bn.var"] = np.full(3, 0.5), np.ones(3)
    typed = {name: np.asarray(array, np.float32) for name, array in constants.items()}
    source = model([MASK, *nodes], {"x": ["n", 3, 4, 5], "z": ["n", 1, 4, 5]}, ["y"], typed, dtype=np.float32)

    _, report = folded(source)

    assert report.entries[0].reason_code == "operator/overflow"


@pytest.mark.parametrize("scale", [1.0, -1.0])
def test_where_of_two_constants_absorbs_the_affine(scale: float) -> None:
    source, rows = masked(0.25, scale)
    where = source.graph.node[2]
    where.input[2] = "other"
    source.graph.initializer.append(onnx.numpy_helper.from_array(np.linspace(0, 1, 4).reshape(4, 1, 1), "other"))

    result, report = folded(source)

    assert report.batchnorm_after == 0
    assert report.entries[0].into
    assert_same(source, result, rows)


def test_where_passes_an_affine_to_branches_of_lower_rank() -> None:
    rng = np.random.default_rng(2)
    nodes = [
        MASK,
        node("Gemm", "x w", "c"),
        node("Where", "mask k c", "m"),
        batchnorm("m", "b"),
        node("Tanh", "b", "y"),
    ]
    constants = {"w": rng.normal(size=(6, 5)), "limit": np.float64(0), "k": np.float64(0.5)} | statistics(rng, 3)
    source = model(nodes, {"x": [3, 6], "z": ["n", 3, 5]}, ["y"], constants)

    result, report = folded(source)

    # the channels of the three axes are the rows of the matrix, for which a Gemm has no gain
    assert report.entries[0].reason_code == "not-per-channel/operator"
    assert_same(source, result, {"x": rng.normal(size=(3, 6)), "z": rng.normal(size=(2, 3, 5))})


@pytest.mark.parametrize("op_type", ["Max", "Min"])
def test_max_and_min_pass_an_affine_to_branches_and_constants(op_type: str) -> None:
    rng = np.random.default_rng(3)
    nodes = [
        node("Conv", "x w", "c"),
        node("Conv", "x v", "d"),
        node(op_type, "c k d", "m"),
        batchnorm("m", "b"),
        node("Relu", "b", "y"),
    ]
    constants = {name: rng.normal(size=(4, 3, 1, 1)) for name in "wv"} | {"k": np.float64(0.1)} | statistics(rng, 4)
    constants["bn.scale"] = np.abs(constants["bn.scale"])  # one is zero
    source = model(nodes, {"x": ["n", 3, "h", "w"]}, ["y"], constants)

    result, report = folded(source)

    assert report.batchnorm_after == 0
    assert_same(source, result, {"x": rng.normal(size=(2, 3, 4, 5))})


def test_where_that_enlarges_a_branch_rejects_what_varies_there() -> None:
    source, _ = masked(np.linspace(0, 1, 4).reshape(4, 1, 1))
    del source.graph.initializer[[one.name for one in source.graph.initializer].index("w")].dims[:]
    weight = next(one for one in source.graph.initializer if one.name == "w")
    weight.CopyFrom(onnx.numpy_helper.from_array(np.ones((1, 3, 1, 1)), "w"))
    del source.graph.value_info[:]

    _, report = folded(source)

    assert report.entries[0].reason_code == "two-branches/operator"


def test_where_in_float16_may_have_an_infinite_constant_beside_finite_ones() -> None:
    source, _ = masked(np.array([-np.inf, 0.0, 1.0, 2.0]).reshape(4, 1, 1))
    narrow = onnx.ModelProto()
    narrow.CopyFrom(source)
    for one in narrow.graph.initializer:
        one.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(one).astype(np.float16), one.name))
    for port in (*narrow.graph.input, *narrow.graph.output, *narrow.graph.value_info):
        if port.type.tensor_type.elem_type == TensorProto.DOUBLE:
            port.type.tensor_type.elem_type = TensorProto.FLOAT16

    _, report = folded(narrow)

    assert report.batchnorm_after == 0


def test_where_in_float16_computes_what_it_did() -> None:
    rng = np.random.default_rng(4)
    nodes = [
        node("Greater", "z limit", "mask"),
        node("Conv", "x w", "c"),
        node("Where", "mask k c", "m"),
        batchnorm("m", "b"),
        node("Relu", "b", "y"),
    ]
    constants = {"w": rng.normal(size=(4, 3, 1, 1)), "limit": np.zeros(()), "k": np.array(-np.inf)} | statistics(rng, 4)
    constants["bn.scale"], constants["bn.var"] = np.full(4, 0.5), np.ones(4)
    narrow = {name: array.astype(np.float16) for name, array in constants.items()}
    inputs = {"x": ["n", 3, 4, 4], "z": ["n", 1, 4, 4]}
    source = model(nodes, inputs, ["y"], narrow, dtype=np.float16)
    rows = {name: rng.normal(size=(2, shape[1], 4, 4)).astype(np.float16) for name, shape in inputs.items()}

    result, report = folded(source)

    assert report.batchnorm_after == 0
    assert {one.data_type for one in result.graph.initializer} == {TensorProto.FLOAT16}
    np.testing.assert_allclose(run32(result, rows)[0], run32(source, rows)[0], atol=2e-2)
