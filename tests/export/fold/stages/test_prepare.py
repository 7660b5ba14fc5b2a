"""Constants and shapes are computed until neither gives the other anything new."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import NodeProto, helper

from tests.support.onnx_models import assert_same, batchnorm, folded, model, operators, statistics


def halved(source: str, result: str, place: int) -> list[NodeProto]:
    """Make a Slice to as many columns as there are, which the file computes: (2 * columns) / 2."""
    value = {name: f"{name}{place}" for name in ("shape", "columns", "twice", "end")}
    return [
        helper.make_node("Shape", [source], [value["shape"]]),
        helper.make_node("Gather", [value["shape"], "one"], [value["columns"]]),
        helper.make_node("Mul", [value["columns"], "two"], [value["twice"]]),
        helper.make_node("Div", [value["twice"], "two"], [value["end"]]),
        helper.make_node("Slice", [source, "zero", value["end"], "one"], [result]),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("depth", [1, 2, 5])
def test_shape_arithmetic_is_computed_however_deep(depth: int) -> None:
    """Each Slice has a known size once the one before it has, and each BatchNormalization then has a layer before."""
    rng = np.random.default_rng(0)
    nodes: list[NodeProto] = []
    constants: dict[str, Any] = {"zero": np.array([0]), "one": np.array([1]), "two": np.array([2])}
    value = "x"
    for place in range(depth):
        nodes.append(helper.make_node("MatMul", [value, f"w{place}"], [f"m{place}"]))
        nodes += halved(f"m{place}", f"s{place}", place)
        nodes.append(batchnorm(f"s{place}", f"n{place}", f"bn{place}"))
        nodes += halved(f"n{place}", f"t{place}", 100 + place)
        nodes.append(helper.make_node("Relu", [f"t{place}"], [f"r{place}"]))
        constants |= {f"w{place}": rng.normal(size=(4, 4))} | statistics(rng, 4, f"bn{place}")
        value = f"r{place}"
    source = model(nodes, {"x": [3, 4]}, [value], constants)

    result, report = folded(source)

    assert report.batchnorm_after == 0
    assert [each for each in operators(result) if each != "Slice"] == ["Gemm", "Relu"] * depth
    assert operators(folded(result)[0]) == operators(result)
    assert_same(source, result, {"x": rng.normal(size=(3, 4))})
