"""Sum and Mean of several branches, constants among them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import NodeProto, helper

from tests.support.onnx_models import assert_same, batchnorm, folded, model, operators, statistics


def node(op_type: str, inputs: str, output: str, **attributes: Any) -> NodeProto:
    return helper.make_node(op_type, inputs.split(), [output], **attributes)


@pytest.mark.parametrize("op_type", ["Sum", "Mean"])
@pytest.mark.parametrize("inputs", ["c d", "c d d", "c k d", "l d k j"])
def test_sum_and_mean_hand_the_gain_to_all_branches_and_the_offset_to_one(op_type: str, inputs: str) -> None:
    rng = np.random.default_rng(0)
    nodes = [
        node("Conv", "x w", "c"),
        node("Conv", "x v", "d", pads=[1, 1, 1, 1]),
        node("LeakyRelu", "c", "l", alpha=0.1),
        node(op_type, inputs, "m"),
        batchnorm("m", "b"),
        node("Relu", "b", "y"),
    ]
    constants = {"w": rng.normal(size=(4, 3, 1, 1)), "v": rng.normal(size=(4, 3, 3, 3))}
    constants |= {"k": rng.normal(size=(4, 1, 1)), "j": rng.normal(size=())} | statistics(rng, 4)
    constants["bn.scale"] = np.abs(constants["bn.scale"])  # LeakyRelu passes no other
    used = {name for each in nodes for name in each.input}
    source = model(
        nodes, {"x": ["n", 3, "h", "w"]}, ["y"], {name: each for name, each in constants.items() if name in used}
    )

    result, report = folded(source)

    wanted = "conflict/operator" if inputs == "c d d" else None
    assert report.entries[0].reason_code in (None, wanted)
    assert ("BatchNormalization" in operators(result)) is (report.entries[0].reason_code is not None)
    assert_same(source, result, {"x": rng.normal(size=(2, 3, 4, 5))})


@pytest.mark.parametrize("op_type", ["Sum", "Mean"])
@pytest.mark.parametrize("inputs", ["b b", "b k b", "b j k"])
def test_sum_and_mean_forwards_leave_the_gain_to_the_reader(op_type: str, inputs: str) -> None:
    rng = np.random.default_rng(1)
    nodes = [node("Tanh", "x", "t"), batchnorm("t", "b"), node(op_type, inputs, "m"), node("Conv", "m w", "y")]
    constants = {"w": rng.normal(size=(4, 3, 1, 1)), "k": rng.normal(size=(3, 1, 1)), "j": rng.normal(size=())}
    constants |= statistics(rng, 3)
    constants["bn.scale"] = np.array([0.5, -1.0, 2.0])
    used = {name for each in nodes for name in each.input}
    source = model(
        nodes, {"x": ["n", 3, "h", "w"]}, ["y"], {name: each for name, each in constants.items() if name in used}
    )

    result, report = folded(source)

    assert report.batchnorm_after == 0
    assert_same(source, result, {"x": rng.normal(size=(2, 3, 4, 5))})
