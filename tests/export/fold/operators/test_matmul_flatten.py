"""MatMul, Flatten, BatchNormalization: the MatMul becomes a Gemm behind the Flatten, as behind a Reshape."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper

from tests.support.onnx_models import assert_same, batchnorm, folded, model, operators, statistics

INNER, COLUMNS = 6, 8


@pytest.mark.parametrize(("axis", "sizes"), [(2, ["n", "rows"]), (-1, ["n", 7]), (3, ["n", 2, 3]), (1, ["n", 1])])
def test_matmul_and_flatten_become_flatten_and_gemm(axis: int, sizes: list[Any]) -> None:
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"], name="layer"),
        helper.make_node("Flatten", ["m"], ["f"], axis=axis),
        batchnorm("f", "n"),
        helper.make_node("Reshape", ["n", "shape"], ["r"]),
        helper.make_node("Relu", ["r"], ["y"]),
    ]
    constants = {"w": rng.normal(size=(INNER, COLUMNS)), "shape": np.array([-1, 1, COLUMNS])} | statistics(rng, COLUMNS)
    source = model(nodes, {"x": [*sizes, INNER]}, ["y"], constants)

    result, report = folded(source)

    assert operators(result) == ["Flatten", "Gemm", "Reshape", "Relu"]
    assert report.entries[0].into == ("layer",)
    shape = [size if isinstance(size, int) else 4 for size in sizes]
    assert_same(source, result, {"x": rng.normal(size=(*shape, INNER))})


def test_flatten_that_joins_the_columns_with_rows_keeps() -> None:
    rng = np.random.default_rng(1)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"], name="layer"),
        helper.make_node("Flatten", ["m"], ["f"], axis=1),
        batchnorm("f", "y"),
    ]
    constants = {"w": rng.normal(size=(INNER, COLUMNS))} | statistics(rng, 3 * COLUMNS)
    source = model(nodes, {"x": ["n", 3, INNER]}, ["y"], constants)

    result, report = folded(source)

    assert report.entries[0].reason_codes[0] == "not-per-channel"
    assert_same(source, result, {"x": rng.normal(size=(2, 3, INNER))})
