"""DeformConv: it absorbs what comes behind it, and a gain that comes before it."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from tests.support.onnx_models import assert_same, batchnorm, folded, model, operators, statistics

OUTPUTS, INPUTS, SIZE = 6, 4, 5


def deform_conv(back: bool, *, bias: bool = True, group: int = 1, masked: bool = False, offset: bool = True) -> Any:
    rng = np.random.default_rng(0)
    inputs = ["x" if back else "n", "w", "moved", "b" if bias else "", "mask" if masked else ""]
    while not inputs[-1]:
        inputs.pop()
    layer = helper.make_node(
        "DeformConv", inputs, ["c"], name="layer", group=group, kernel_shape=[3, 3], pads=[1] * 4, offset_group=1
    )
    relu = helper.make_node("Relu", ["n" if back else "x"], ["y" if back else "a"])
    nodes = [layer, batchnorm("c", "n"), relu] if back else [relu, batchnorm("a", "n"), layer]
    constants = {"w": rng.normal(size=(OUTPUTS, INPUTS // group, 3, 3)), "b": rng.normal(size=OUTPUTS)}
    constants |= statistics(rng, OUTPUTS if back else INPUTS)
    if not offset:
        constants |= {f"bn.{name}": np.zeros_like(constants["bn.shift"]) for name in ("shift", "mean")}
    constants = {name: array for name, array in constants.items() if name != "b" or bias}
    shapes: dict[str, Any] = {"x": ["n", INPUTS, SIZE, SIZE], "moved": ["n", 18, SIZE, SIZE]}
    shapes |= {"mask": ["n", 9, SIZE, SIZE]} if masked else {}
    return model(nodes, shapes, ["y" if back else "c"], constants, opset=19)


def rows(source: onnx.ModelProto) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    found = {}
    for one in source.graph.input:
        shape = [size.dim_value or 2 for size in one.type.tensor_type.shape.dim]
        found[one.name] = rng.uniform(size=shape) if one.name == "mask" else rng.normal(size=shape)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("masked", [True, False])
def test_deform_conv_absorbs_what_comes_behind(bias: bool, group: int, masked: bool) -> None:
    source = deform_conv(True, bias=bias, group=group, masked=masked)

    result, _ = folded(source)

    assert operators(result) == ["DeformConv", "Relu"]
    assert_same(source, result, rows(source))


@pytest.mark.slow
@pytest.mark.parametrize("group", [1, 2])
def test_deform_conv_absorbs_a_gain_that_comes_before(group: int) -> None:
    source = deform_conv(False, group=group, masked=True, offset=False)

    result, _ = folded(source)

    assert operators(result) == ["Relu", "DeformConv"]
    assert_same(source, result, rows(source))


def test_deform_conv_keeps_an_offset_that_comes_before() -> None:
    _, report = folded(deform_conv(False))

    assert report.entries[0].reason_codes[1] == "uneven-taps"


def test_deform_conv_keeps_an_affine_of_its_mask() -> None:
    rng = np.random.default_rng(2)
    nodes = [
        helper.make_node("Sigmoid", ["m"], ["s"]),
        batchnorm("s", "mask"),
        helper.make_node("DeformConv", ["x", "w", "moved", "", "mask"], ["y"], kernel_shape=[3, 3], pads=[1] * 4),
    ]
    shapes = {"x": [1, INPUTS, SIZE, SIZE], "moved": [1, 18, SIZE, SIZE], "m": [1, 9, SIZE, SIZE]}
    constants = {"w": rng.normal(size=(OUTPUTS, INPUTS, 3, 3))} | statistics(rng, 9)

    _, report = folded(model(nodes, shapes, ["y"], constants, opset=19))

    assert report.entries[0].reason_codes[1] == "operator"
