"""ReduceSum: the offset needs the number of elements; reductions with axes as attribute and as input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import NodeProto, helper

from tests.support.onnx_models import assert_same, batchnorm, folded, model, statistics


def node(op_type: str, inputs: str, output: str, **attributes: Any) -> NodeProto:
    return helper.make_node(op_type, inputs.split(), [output], **attributes)


@pytest.mark.parametrize("has_offset", [False, True])
@pytest.mark.parametrize("back", [False, True])
def test_reducesum_of_unknown_length_passes_a_gain_alone(has_offset: bool, back: bool) -> None:
    rng = np.random.default_rng(0)
    first, last = (node("Conv", "x w", "a"), node("Tanh", "d", "y")), (node("Tanh", "x", "t"), node("Conv", "c w", "y"))
    nodes = (
        [first[0], node("ReduceSum", "a ax", "c"), batchnorm("c", "d"), first[1]]
        if back
        else [last[0], batchnorm("t", "a"), node("ReduceSum", "a ax", "c"), last[1]]
    )
    constants = {"w": rng.normal(size=(4, 4, 1, 1)), "ax": np.array([2, 3])} | statistics(rng, 4)
    if not has_offset:
        constants["bn.shift"] = constants["bn.mean"] = np.zeros(4)
    source = model(nodes, {"x": ["n", 4, "h", 5]}, ["y"], constants)

    result, report = folded(source)

    (entry,) = report.entries
    wanted = ("unknown-shape/operator" if back else "operator/unknown-shape") if has_offset else None
    assert entry.reason_code == wanted
    if has_offset:
        assert "the number of elements that it adds up is not known" in (entry.reason or "")
    assert_same(source, result, {"x": rng.normal(size=(2, 4, 3, 5))})


def test_reducesum_adds_up_offsets_that_vary() -> None:
    """A zero-padded Conv in front: what is missing behind it varies over the positions."""
    rng = np.random.default_rng(1)
    nodes = [
        node("Tanh", "x", "t"),
        batchnorm("t", "a"),
        node("Conv", "a w", "c", pads=[1, 1, 1, 1]),
        node("ReduceSum", "c ax", "s", keepdims=0),
        node("Gemm", "s v", "y"),
    ]
    constants = {"w": rng.normal(size=(4, 4, 3, 3)), "v": rng.normal(size=(4, 2)), "ax": np.array([-1, 2])}
    source = model(nodes, {"x": ["n", 4, 5, 6]}, ["y"], constants | statistics(rng, 4))

    result, report = folded(source)

    assert report.batchnorm_after == 0
    assert_same(source, result, {"x": rng.normal(size=(2, 4, 5, 6))})


@pytest.mark.parametrize("opset", [11, 13, 17, 18, 20])
@pytest.mark.parametrize("op_type", ["ReduceSum", "ReduceMax", "ReduceMin", "ReduceMean"])
@pytest.mark.parametrize("keepdims", [0, 1])
def test_reduction_passes_in_every_opset(op_type: str, opset: int, keepdims: int) -> None:
    rng = np.random.default_rng(2)
    by_input = opset >= (13 if op_type == "ReduceSum" else 18)
    reduction = node(
        op_type, "c ax" if by_input else "c", "r", keepdims=keepdims, **({} if by_input else {"axes": [-1]})
    )
    nodes = [node("Conv", "x w", "c"), reduction, batchnorm("r", "b"), node("Tanh", "b", "y")]
    constants = {"w": rng.normal(size=(4, 3, 1)), **({"ax": np.array([-1])} if by_input else {})} | statistics(rng, 4)
    constants["bn.scale"] = np.abs(constants["bn.scale"])
    source = model(nodes, {"x": ["n", 3, 6]}, ["y"], constants, opset=opset)

    result, report = folded(source)

    assert report.batchnorm_after == 0
    assert_same(source, result, {"x": rng.normal(size=(2, 3, 6))})
