"""Gemm and MatMul (with the Add behind) before a BatchNormalization, and behind one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper

from tests.support.onnx_models import assert_same, batchnorm, folded, model, operators, statistics

ROWS, INNER, COLUMNS = 5, 4, 3


def gemm(
    rng: np.random.Generator, back: bool, c_shape: tuple[int, ...] | None, trans_a: int = 0, **attributes: Any
) -> Any:
    trans_b = attributes.get("transB", 0)
    constants = {"w": rng.normal(size=(COLUMNS, INNER) if trans_b else (INNER, COLUMNS))}
    if c_shape is not None:
        constants["c"] = rng.normal(size=c_shape)
    names = ["w"] if c_shape is None else ["w", "c"]
    shape = (INNER, ROWS) if trans_a else (ROWS, INNER)
    if back:
        nodes = [helper.make_node("Gemm", ["x", *names], ["h"], transA=trans_a, **attributes), batchnorm("h", "y")]
    else:
        nodes = [batchnorm("x", "h"), helper.make_node("Gemm", ["h", *names], ["y"], transA=trans_a, **attributes)]
    constants |= statistics(rng, COLUMNS if back else shape[1])
    return model(nodes, {"x": shape}, ["y"], constants), {"x": rng.normal(size=shape)}


@pytest.mark.parametrize("attributes", [{}, {"alpha": 0.5, "beta": 2.0}, {"transB": 1}, {"beta": 0.0}])
@pytest.mark.parametrize("c_shape", [None, (), (1,), (COLUMNS,), (1, COLUMNS), (ROWS, 1), (ROWS, COLUMNS)])
@pytest.mark.parametrize("trans_a", [0, 1])
def test_gemm_absorbs_backwards_with_any_bias_and_factor(
    trans_a: int, c_shape: tuple[int, ...] | None, attributes: dict[str, Any]
) -> None:
    source, inputs = gemm(np.random.default_rng(0), True, c_shape, trans_a, **attributes)

    result, _ = folded(source)

    assert operators(result) == ["Gemm"]
    assert_same(source, result, inputs)


@pytest.mark.parametrize("attributes", [{}, {"alpha": 0.5, "beta": 2.0}, {"transB": 1}, {"beta": 0.0}])
@pytest.mark.parametrize("c_shape", [None, (), (1,), (COLUMNS,), (1, COLUMNS), (ROWS, 1), (ROWS, COLUMNS)])
def test_gemm_absorbs_forwards_with_any_bias_and_factor(
    c_shape: tuple[int, ...] | None, attributes: dict[str, Any]
) -> None:
    source, inputs = gemm(np.random.default_rng(1), False, c_shape, **attributes)

    result, _ = folded(source)

    assert operators(result) == ["Gemm"]
    assert_same(source, result, inputs)


def test_batchnorm_is_kept_where_the_channel_is_not_contracted() -> None:
    """With transA the channel axis of x is the row axis of Y: no weight sees one channel alone."""
    rng = np.random.default_rng(2)
    nodes = [batchnorm("x", "h"), helper.make_node("Gemm", ["h", "w"], ["y"], transA=1)]
    constants = {"w": rng.normal(size=(INNER, COLUMNS))} | statistics(rng, INNER)
    source = model(nodes, {"x": [INNER, INNER]}, ["y"], constants)

    _, report = folded(source)

    assert report.entries[0].reason_code == "graph-input/not-per-channel"


def test_a_bias_that_is_computed_keeps_the_node() -> None:
    rng = np.random.default_rng(3)
    nodes = [helper.make_node("Gemm", ["x", "w", "c"], ["h"], name="gemm"), batchnorm("h", "y")]
    constants = {"w": rng.normal(size=(INNER, COLUMNS))} | statistics(rng, COLUMNS)
    source = model(nodes, {"x": [ROWS, INNER], "c": [ROWS, COLUMNS]}, ["y"], constants)

    _, report = folded(source)

    assert report.entries[0].reason_code == "weights-not-constant/graph-output"


def matmul(
    rng: np.random.Generator, back: bool, rank: int, left: bool, bias: tuple[int, ...] | None, swapped: bool = False
) -> Any:
    """Make MatMul [-> Add] around a BatchNormalization; `left` puts the constant first."""
    if left:
        x_shape, weight, result = [2] * (rank - 2) + [INNER, 6], (COLUMNS, INNER), [2] * (rank - 2) + [COLUMNS, 6]
    else:
        x_shape, weight, result = [2] * (rank - 2) + [ROWS, INNER], (INNER, COLUMNS), [2] * (rank - 2) + [ROWS, COLUMNS]
    constants = {"w": rng.normal(size=weight)}
    nodes = []
    source = "x"
    if not back:
        nodes.append(batchnorm("x", "n"))
        source = "n"
    nodes.append(helper.make_node("MatMul", ["w", source] if left else [source, "w"], ["m"], name="matmul"))
    last = "m"
    if bias is not None:
        constants["b"] = rng.normal(size=bias)
        nodes.append(helper.make_node("Add", ["b", "m"] if swapped else ["m", "b"], ["a"], name="add"))
        last = "a"
    if back:
        nodes.append(batchnorm(last, "y"))
        last = "y"
    constants |= statistics(rng, (result if back else x_shape)[1])
    return model(nodes, {"x": x_shape}, [last], constants), {"x": rng.normal(size=x_shape)}


@pytest.mark.parametrize("bias", [(COLUMNS,), (1, COLUMNS), (1,), (), (ROWS, COLUMNS)])
@pytest.mark.parametrize("swapped", [True, False])
@pytest.mark.parametrize("back", [True, False])
def test_matmul_and_add_absorb(back: bool, swapped: bool, bias: tuple[int, ...]) -> None:
    source, inputs = matmul(np.random.default_rng(4), back, rank=2, left=False, bias=bias, swapped=swapped)

    result, _ = folded(source)

    if back:
        assert operators(result) == (["MatMul", "Add"] if bias == (ROWS, COLUMNS) else ["Gemm"])
    else:
        assert operators(result) == (["Gemm"] if bias in [(COLUMNS,), (1, COLUMNS)] else ["Gemm", "Add"])
    assert_same(source, result, inputs)


@pytest.mark.parametrize("back", [True, False])
def test_matmul_without_bias_becomes_gemm(back: bool) -> None:
    source, inputs = matmul(np.random.default_rng(5), back, rank=2, left=False, bias=None)

    result, _ = folded(source)

    assert operators(result) == ["Gemm"]
    assert_same(source, result, inputs)


@pytest.mark.parametrize("back", [True, False])
def test_matmul_by_a_constant_on_the_left_absorbs_along_the_rows(back: bool) -> None:
    source, inputs = matmul(np.random.default_rng(6), back, rank=3, left=True, bias=(COLUMNS, 1))

    result, _ = folded(source)

    assert operators(result) == ["MatMul", "Add"]
    assert_same(source, result, inputs)


def test_matmul_without_bias_and_with_more_axes_keeps() -> None:
    source, _ = matmul(np.random.default_rng(7), True, rank=3, left=True, bias=None)

    _, report = folded(source)

    assert report.entries[0].reason_code == "no-bias/graph-output"


def test_matmul_with_more_axes_never_becomes_gemm() -> None:
    """With one channel the affine fits any axis, but Gemm takes matrices only."""
    rng = np.random.default_rng(11)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["m"]), batchnorm("m", "y")]
    constants = {"w": rng.normal(size=(INNER, COLUMNS))} | statistics(rng, 1)
    source = model(nodes, {"x": ["n", 1, INNER]}, ["y"], constants)

    _, report = folded(source)

    assert report.entries[0].reason_code == "no-bias/graph-output"


def test_channels_that_the_weight_does_not_carry_keep() -> None:
    """In (N, C, L) times (L, M) the channel is a row: the constant on the right scales columns."""
    source, _ = matmul(np.random.default_rng(8), True, rank=3, left=False, bias=(COLUMNS,))

    _, report = folded(source)

    assert report.entries[0].reason_code == "not-per-channel/graph-output"


def test_an_add_whose_constant_enlarges_the_other_operand_keeps() -> None:
    rng = np.random.default_rng(9)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"]),
        helper.make_node("Add", ["m", "b"], ["a"], name="add"),
        batchnorm("a", "y"),
    ]
    constants = {"w": rng.normal(size=(INNER, 1)), "b": rng.normal(size=(COLUMNS,))} | statistics(rng, COLUMNS)
    source = model(nodes, {"x": [ROWS, INNER]}, ["y"], constants)

    _, report = folded(source)

    assert report.entries[0].reason_code == "broadcast/graph-output"


def test_an_add_takes_the_offset_even_where_a_gain_is_zero() -> None:
    rng = np.random.default_rng(10)
    nodes = [
        batchnorm("x", "n"),
        helper.make_node("Add", ["n", "b"], ["a"]),
        helper.make_node("Gemm", ["a", "w"], ["y"]),
    ]
    constants = {"b": rng.normal(size=INNER), "w": rng.normal(size=(INNER, COLUMNS))} | statistics(rng, INNER)
    assert constants["bn.scale"][0] == 0
    source = model(nodes, {"x": ["n", INNER]}, ["y"], constants)

    result, _ = folded(source)

    assert operators(result) == ["Gemm"]
    assert_same(source, result, {"x": rng.normal(size=(ROWS, INNER))})
