"""Pad with negative pads: a crop, which asks nothing of its constant."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import NodeProto, helper

from tests.support.onnx_models import assert_same, batchnorm, folded, model, operators, statistics


def node(op_type: str, inputs: str, output: str, **attributes: Any) -> NodeProto:
    return helper.make_node(op_type, inputs.split(), [output], **attributes)


@pytest.mark.parametrize("mode", ["constant", "edge", "reflect"])
@pytest.mark.parametrize("shape", [["n", 3, 6, 7], ["n", 3, "h", "w"]])
def test_pad_that_crops_positions_passes_every_affine(mode: str, shape: list[Any]) -> None:
    rng = np.random.default_rng(0)
    nodes = [
        node("Conv", "x w", "c", pads=[1, 1, 1, 1]),
        node("Pad", "c q", "p", mode=mode),
        batchnorm("p", "b"),
        node("Relu", "b", "y"),
    ]
    constants = {"w": rng.normal(size=(4, 3, 3, 3)), "q": np.array([0, 0, -1, 0, 0, 0, 0, -2])} | statistics(rng, 4)
    source = model(nodes, {"x": shape}, ["y"], constants)

    result, _ = folded(source)

    assert operators(result) == ["Conv", "Pad", "Relu"]
    assert_same(source, result, {"x": rng.normal(size=(2, 3, 6, 7))})


@pytest.mark.parametrize("channels", [6, "channels"])
def test_pad_that_crops_channels_needs_their_number(channels: int | str) -> None:
    rng = np.random.default_rng(1)
    nodes = [
        node("Tanh", "x", "t"),
        node("Pad", "t q", "p"),
        batchnorm("p", "b"),
        node("Tanh", "b", "y"),
    ]
    constants = {"q": np.array([0, -1, 0, 0, -1, 0])} | statistics(rng, 4)
    source = model(nodes, {"x": ["n", channels, "h"]}, ["y"], constants)

    _, report = folded(source)

    (entry,) = report.entries
    assert entry.reason_code == ("operator/operator" if channels == 6 else "unknown-shape/operator")
    assert "pads all channels" not in (entry.reason or "")
