"""GatherElements that shortens the channels too, and a norm over all positions, as ONNX Runtime computes them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import NodeProto, helper

from tests.support.onnx_models import assert_same, batchnorm, folded, model, statistics


def node(op_type: str, inputs: str, output: str, **attributes: Any) -> NodeProto:
    return helper.make_node(op_type, inputs.split(), [output], **attributes)


@pytest.mark.parametrize("back", [True, False])
@pytest.mark.parametrize("op_type", ["GatherElements", "GlobalLpPool"])
def test_operator_passes_an_affine_with_its_own_channels(op_type: str, back: bool) -> None:
    rng = np.random.default_rng(0)
    shortens = op_type == "GatherElements"
    between = node("GatherElements", "a i", "b", axis=2) if shortens else node("GlobalLpPool", "a", "b")
    before, after = (6, 4) if shortens else (6, 6)
    nodes = (
        [node("Conv", "x w", "a"), between, batchnorm("b", "n"), node("Tanh", "n", "y")]
        if back
        else [node("Tanh", "x", "t"), batchnorm("t", "a"), between, node("Conv", "b w", "y")]
    )
    weight = (before, before, 1, 1) if back else (3, after, 1, 1)
    constants: dict[str, Any] = {"w": rng.normal(size=weight)} | statistics(rng, after if back else before)
    constants["bn.scale"], constants["bn.var"] = np.abs(constants["bn.scale"]), np.abs(constants["bn.var"]) + 0.5
    if not shortens:
        constants["bn.shift"] = constants["bn.mean"] = np.zeros(before)
    typed = {name: np.asarray(array, np.float32) for name, array in constants.items()}
    typed |= {"i": rng.integers(-5, 5, (2, 4, 3, 4))} if shortens else {}
    source = model(nodes, {"x": ["n", 6, 5, 4]}, ["y"], typed, dtype=np.float32)

    result, report = folded(source)

    assert report.batchnorm_after == 0
    assert_same(source, result, {"x": rng.normal(size=(2, 6, 5, 4)).astype(np.float32)})
