"""The size of a graph: nodes, and the multiplications of one row where all sizes but the batch are known."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import NodeProto, helper

from normfold.export.graph.inference import infer_shapes
from normfold.export.graph.size import GraphSize, size_of
from tests.support.onnx_models import batchnorm, folded, model, small_convnet, statistics

RNG = np.random.default_rng(0)


def size(proto: onnx.ModelProto) -> GraphSize:
    working = ir.from_proto(proto)
    infer_shapes(working)
    return size_of(working)


@pytest.mark.parametrize(
    ("node", "shape", "weight", "wanted"),
    [
        (helper.make_node("Conv", ["x", "w"], ["y"], pads=[1] * 4), ["n", 4, 5, 5], (6, 4, 3, 3), 6 * 25 * 4 * 9),
        (helper.make_node("Conv", ["x", "w"], ["y"], group=2), ["n", 4, 5, 5], (6, 2, 3, 3), 6 * 9 * 2 * 9),
        (helper.make_node("Conv", ["x", "w"], ["y"], strides=[2]), ["n", 4, 5], (6, 4, 1), 6 * 3 * 4),
        (helper.make_node("ConvTranspose", ["x", "w"], ["y"]), ["n", 4, 5, 5], (4, 6, 3, 3), 4 * 25 * 6 * 9),
        (helper.make_node("Gemm", ["x", "w"], ["y"]), ["n", 4], (4, 6), 24),
        (helper.make_node("Gemm", ["x", "w"], ["y"], transB=1), ["n", 4], (6, 4), 24),
        (helper.make_node("MatMul", ["x", "w"], ["y"]), ["n", 7, 4], (4, 6), 7 * 24),
        (helper.make_node("Mul", ["x", "w"], ["y"]), ["n", 7, 4], (4,), 28),
        (helper.make_node("Add", ["x", "w"], ["y"]), ["n", 7, 4], (4,), 0),
        (helper.make_node("Conv", ["x", "w"], ["y"]), ["n", 4, "h", 5], (6, 4, 1, 1), None),
        (helper.make_node("Add", ["x", "w"], ["y"]), ["n", "t", 4], (4,), 0),
    ],
)
def test_multiplications_of_one_row(node: NodeProto, shape: list[Any], weight: tuple[int, ...], wanted: int) -> None:
    proto = model([node], {"x": shape}, ["y"], {"w": RNG.normal(size=weight).astype(np.float32)}, dtype=np.float32)

    assert size(proto) == GraphSize(1, wanted)


def test_size_counts_no_constant_node_and_no_arithmetic_of_shapes() -> None:
    nodes = [
        helper.make_node("Constant", [], ["two"], value_ints=[2]),
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Mul", ["s", "two"], ["target"]),
        helper.make_node("Expand", ["x", "target"], ["y"]),
    ]

    assert size(model(nodes, {"x": [1, 1]}, ["y"], {}, dtype=np.float32)) == GraphSize(3, 0)


def test_report_has_the_size_before_and_after() -> None:
    _, report = folded(small_convnet(np.random.default_rng(0)))

    conv, normalise, dense = 4 * 25 * 2 * 9, 4 * 25, 3 * 100
    assert report.size_before == GraphSize(5, conv + normalise + dense)
    assert report.size_after == GraphSize(4, conv + dense)
    assert report.size_after.to_dict() == {"nodes": 4, "multiplications": conv + dense}


def test_report_has_no_multiplications_where_the_sizes_are_free() -> None:
    nodes = [helper.make_node("Conv", ["x", "w"], ["h"]), batchnorm("h", "y")]
    constants = {"w": RNG.normal(size=(3, 2, 1, 1))} | statistics(RNG, 3)

    _, report = folded(model(nodes, {"x": ["n", 2, "h", "w_"]}, ["y"], constants))

    assert report.size_before == GraphSize(2, None)
    assert report.size_after == GraphSize(1, None)
