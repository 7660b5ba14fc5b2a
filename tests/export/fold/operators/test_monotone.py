"""Relu, MaxPool and their like with gains of zero."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import NodeProto, helper

from tests.support.onnx_models import assert_same, batchnorm, folded, model, operators, statistics


def node(op_type: str, inputs: str, outputs: str, **attributes: Any) -> NodeProto:
    return helper.make_node(op_type, inputs.split(), outputs.split(), **attributes)


def behind_conv(
    rng: np.random.Generator, nodes: list[NodeProto], outputs: list[str], **changes: Any
) -> onnx.ModelProto:
    """Make x -> Conv -> c, the nodes, and a BatchNormalization with a gain of zero, without offset: m -> b."""
    constants = {"w": rng.normal(size=(4, 3, 1, 1))} | statistics(rng, 4)
    constants["bn.scale"] = np.array([0.0, 1.0, 0.0, 0.5])
    constants["bn.shift"] = constants["bn.mean"] = np.zeros(4)
    constants["bn.var"] = np.ones(4)
    if any("v" in each.input for each in nodes):
        constants["v"] = rng.normal(size=(2, 4, 1, 1))
    constants |= {f"bn.{name}": array for name, array in changes.items()}
    return model([node("Conv", "x w", "c"), *nodes], {"x": ["n", 3, "h", "w"]}, outputs, constants)


def rows(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {"x": rng.normal(size=(2, 3, 6, 5))}


def test_relu_passes_a_gain_of_zero() -> None:
    rng = np.random.default_rng(0)
    nodes = [node("Relu", "c", "m"), batchnorm("m", "b"), node("Tanh", "b", "y")]
    source = behind_conv(rng, nodes, ["y"])

    result, _ = folded(source)

    assert operators(result) == ["Conv", "Relu", "Tanh"]
    assert_same(source, result, rows(rng))


@pytest.mark.parametrize(("shift", "code"), [(0.5, None), (-0.5, "non-linear/operator")])
def test_relu_passes_an_offset_where_the_gain_is_zero_if_it_is_not_negative(shift: float, code: str | None) -> None:
    rng = np.random.default_rng(1)
    nodes = [node("Relu", "c", "m"), batchnorm("m", "b"), node("Tanh", "b", "y")]
    source = behind_conv(rng, nodes, ["y"], shift=np.array([shift, 0, 0, 0]))

    result, report = folded(source)

    assert report.entries[0].reason_code == code
    assert_same(source, result, rows(rng))


@pytest.mark.parametrize("is_output", [False, True])
@pytest.mark.parametrize("scale", [[0.0, 1.0, 0.0, 0.5], [0.5, 1.0, 2.0, 0.5]])
def test_maxpool_passes_a_gain_of_zero_unless_its_indices_are_read(scale: list[float], is_output: bool) -> None:
    rng = np.random.default_rng(2)
    nodes = [node("MaxPool", "c", "m i", kernel_shape=[2, 2]), batchnorm("m", "b"), node("Tanh", "b", "y")]
    reader = [] if is_output else [node("Neg", "i", "j")]
    source = behind_conv(rng, [*nodes, *reader], ["y", "i" if is_output else "j"], scale=np.array(scale))

    result, report = folded(source)

    assert report.entries[0].reason_code == (None if all(scale) else "gain-sign/operator")
    assert_same(source, result, rows(rng))


def test_maxpool_forwards_keeps_a_gain_of_zero_where_its_indices_are_read() -> None:
    rng = np.random.default_rng(3)
    nodes = [
        node("Tanh", "c", "t"),
        batchnorm("t", "b"),
        node("MaxPool", "b", "p i", kernel_shape=[2, 2]),
        node("Conv", "p v", "y"),
    ]
    for outputs, code in ((["y", "i"], "operator/gain-sign"), (["y"], None)):
        source = behind_conv(rng, nodes, outputs)

        result, report = folded(source)

        assert report.entries[0].reason_code == code
        assert_same(source, result, rows(rng))
