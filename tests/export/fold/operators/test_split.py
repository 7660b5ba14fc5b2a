"""Split along an axis of unknown size."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import NodeProto, helper

from tests.support.onnx_models import assert_same, batchnorm, folded, model, statistics


def node(op_type: str, inputs: str, outputs: str, **attributes: Any) -> NodeProto:
    return helper.make_node(op_type, inputs.split(), outputs.split(), **attributes)


@pytest.mark.parametrize("back", [True, False])
@pytest.mark.parametrize("reads_all", [True, False])
def test_split_along_an_axis_of_unknown_size_passes_one_affine_to_all_parts(back: bool, reads_all: bool) -> None:
    rng = np.random.default_rng(0)
    split, join = node("Split", "a", "c d", axis=2, num_outputs=2), node("Concat", "d c", "b", axis=3)
    other = [] if reads_all else [node("Tanh", "d", "e")]
    join = join if reads_all else node("Identity", "c", "b")
    nodes = (
        [node("Conv", "x w", "a"), split, *other, join, batchnorm("b", "n"), node("Tanh", "n", "y")]
        if back
        else [node("Tanh", "x", "t"), batchnorm("t", "a"), split, *other, join, node("Conv", "b w", "y")]
    )
    constants = {"w": rng.normal(size=(4, 4, 1, 1))} | statistics(rng, 4)
    outputs = ["y"] if reads_all else ["y", "e"]
    source = model(nodes, {"x": ["n", 4, "h", 5]}, outputs, constants, opset=18)

    result, report = folded(source)

    assert report.batchnorm_after == (0 if reads_all else 1)
    if not reads_all:
        assert report.entries[0].reason_code == ("unknown-shape/operator" if back else "operator/operator")
    assert_same(source, result, {"x": rng.normal(size=(2, 4, 6, 5))})
