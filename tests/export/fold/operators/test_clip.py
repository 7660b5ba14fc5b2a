"""Clip whose bounds move with a uniform affine, as attributes and as inputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import NodeProto, helper

from tests.support.onnx_models import assert_same, batchnorm, folded, model, operators, statistics


def node(op_type: str, inputs: str, output: str, **attributes: Any) -> NodeProto:
    return helper.make_node(op_type, inputs.split(), [output], **attributes)


@pytest.mark.parametrize("opset", [9, 11, 17])
@pytest.mark.parametrize("back", [True, False])
def test_clip_moves_its_bounds_with_a_uniform_affine(opset: int, back: bool) -> None:
    rng = np.random.default_rng(0)
    by_input = opset >= 11
    clip = node("Clip", "a low high" if by_input else "a", "b", **({} if by_input else {"min": -1.0, "max": 0.5}))
    nodes = (
        [node("Conv", "x w", "a"), clip, batchnorm("b", "n"), node("Tanh", "n", "y")]
        if back
        else [node("Tanh", "x", "t"), batchnorm("t", "a"), clip, node("Conv", "b w", "y")]
    )
    constants = {"w": rng.normal(size=(4, 4, 1, 1))} | statistics(rng, 4)
    for name, number in (("scale", 0.5), ("shift", 0.25), ("mean", -1.0), ("var", 2.0)):
        constants[f"bn.{name}"] = np.full(4, number)
    constants |= {"low": np.float64(-1), "high": np.float64(0.5)} if by_input else {}
    typed = {name: np.asarray(array, np.float32) for name, array in constants.items()}
    source = model(nodes, {"x": ["n", 4, "h", "w"]}, ["y"], typed, opset=opset, dtype=np.float32)

    result, report = folded(source)

    assert report.batchnorm_after == 0
    assert len(operators(result)) == 3
    assert_same(source, result, {"x": rng.normal(size=(2, 4, 5, 5)).astype(np.float32)})


def test_clip_by_bounds_that_are_computed_is_kept() -> None:
    rng = np.random.default_rng(1)
    nodes = [
        node("Conv", "x w", "a"),
        node("ReduceMax", "x", "high", keepdims=0),
        node("Clip", "a low high", "b"),
        batchnorm("b", "n"),
        node("Tanh", "n", "y"),
    ]
    constants = {"w": rng.normal(size=(4, 4, 1, 1)), "low": np.float64(0)} | statistics(rng, 4)
    constants["bn.scale"], constants["bn.shift"], constants["bn.mean"] = np.ones(4), np.zeros(4), np.zeros(4)
    source = model(nodes, {"x": ["n", 4, "h", "w"]}, ["y"], constants)

    _, report = folded(source)

    assert report.entries[0].reason_code == "weights-not-constant/operator"
