"""Readers of a shape: a Shape or Size reads no values, and blocks no affine."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import NodeProto, helper

from tests.support.onnx_models import assert_same, batchnorm, folded, model, operators, run64, statistics

node = helper.make_node


def read_conv(reader: list[NodeProto], rng: np.random.Generator) -> onnx.ModelProto:
    """Make Conv, BatchNormalization, Relu, with another reader of the Conv's output, which gives `s`."""
    nodes = [
        node("Conv", ["x", "w"], ["h"], name="conv"),
        batchnorm("h", "n"),
        node("Relu", ["n"], ["y"]),
        *reader,
    ]
    constants = {"w": rng.normal(size=(3, 2, 1, 1))} | statistics(rng, 3)
    return model(nodes, {"x": ["n", 2, "height", "width"]}, ["y", "s"], constants)


READERS = {
    "Shape": [node("Shape", ["h"], ["s"])],
    "Size": [node("Size", ["h"], ["s"])],
}


@pytest.mark.parametrize("name", READERS)
def test_shape_reader_blocks_no_affine_backwards(name: str) -> None:
    rng = np.random.default_rng(0)
    source = read_conv(READERS[name], rng)

    result, report = folded(source)

    assert report.batchnorm_after == 0
    assert_same(source, result, {"x": rng.normal(size=(2, 2, 3, 5))})


@pytest.mark.parametrize("op_type", ["Relu", "Neg"])
def test_reader_of_values_still_blocks(op_type: str) -> None:
    _, report = folded(read_conv([node(op_type, ["h"], ["s"])], np.random.default_rng(1)))

    assert (report.entries[0].reason_code or "").startswith("other-readers/")


@pytest.mark.parametrize("name", READERS)
def test_shape_reader_blocks_no_affine_forwards(name: str) -> None:
    rng = np.random.default_rng(3)
    reader = [node(one.op_type, [{"h": "n"}.get(each, each) for each in one.input], ["s"]) for one in READERS[name]]
    nodes = [node("Relu", ["x"], ["r"]), batchnorm("r", "n"), node("Conv", ["n", "w"], ["y"]), *reader]
    constants = {"w": rng.normal(size=(3, 2, 1, 1))} | statistics(rng, 2)
    source = model(nodes, {"x": ["n", 2, "height", "width"]}, ["y", "s"], constants)

    result, report = folded(source)

    assert report.batchnorm_after == 0
    assert_same(source, result, {"x": rng.normal(size=(2, 2, 3, 5))})


def test_shape_reader_of_a_matmul_keeps_its_shape() -> None:
    """MatMul, Reshape, BatchNormalization becomes Reshape, Gemm, whose value in between has another shape."""
    rng = np.random.default_rng(4)
    nodes = [
        node("MatMul", ["x", "w"], ["h"]),
        node("Reshape", ["h", "matrix"], ["m"]),
        batchnorm("m", "y"),
        node("Shape", ["h"], ["s"]),
    ]
    constants: dict[str, Any] = {"w": rng.normal(size=(4, 3)), "matrix": np.array([-1, 3])}
    source = model(nodes, {"x": ["n", 5, 4]}, ["y", "s"], constants | statistics(rng, 3))

    result, _ = folded(source)

    x = rng.normal(size=(2, 5, 4))
    assert run64(result, {"x": x})[1].tolist() == [2, 5, 3]
    assert "Shape" in operators(result)
