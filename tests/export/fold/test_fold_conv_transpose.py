"""ConvTranspose before a BatchNormalization, and behind one; in float32, where ONNX Runtime knows groups."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper

from tests.support.onnx_models import assert_same, batchnorm, folded, model, operators, statistics


def transposed(
    rng: np.random.Generator, back: bool, group: int = 1, bias: bool = True, kernel: int = 3, **attributes: Any
) -> Any:
    inputs, outputs_per_group = 6, 4
    outputs = outputs_per_group * group
    constants: dict[str, Any] = {"w": rng.normal(size=(inputs, outputs_per_group, kernel, kernel)).astype(np.float32)}
    if bias:
        constants["b"] = rng.normal(size=outputs).astype(np.float32)
    names = ["w", "b"] if bias else ["w"]
    if back:
        nodes = [helper.make_node("ConvTranspose", ["x", *names], ["h"], group=group, **attributes)]
        nodes.append(batchnorm("h", "y"))
    else:
        nodes = [
            batchnorm("x", "h"),
            helper.make_node("ConvTranspose", ["h", *names], ["y"], group=group, **attributes),
        ]
    constants |= statistics(rng, outputs if back else inputs, dtype=np.float32)
    arrays = {"x": rng.normal(size=(2, inputs, 5, 5)).astype(np.float32)}
    return model(nodes, {"x": ["batch", inputs, 5, 5]}, ["y"], constants, dtype=np.float32), arrays


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("group", [1, 2, 3, 6])
@pytest.mark.parametrize(
    "attributes",
    [{}, {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]}, {"dilations": [2, 2]}],
)
def test_conv_transpose_absorbs_backwards_with_any_attributes(
    attributes: dict[str, Any], group: int, bias: bool
) -> None:
    source, inputs = transposed(np.random.default_rng(0), True, group, bias, **attributes)

    result, _ = folded(source)

    assert operators(result) == ["ConvTranspose"]
    assert_same(source, result, inputs)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("group", [1, 2, 3, 6])
@pytest.mark.parametrize(
    "attributes", [{"kernel": 1}, {"pads": [2, 2, 2, 2]}, {"pads": [4, 4, 4, 4], "dilations": [2, 2]}]
)
def test_conv_transpose_absorbs_forwards_where_positions_see_every_tap(
    attributes: dict[str, Any], group: int, bias: bool
) -> None:
    source, inputs = transposed(np.random.default_rng(1), False, group, bias, **attributes)

    result, _ = folded(source)

    assert operators(result) == ["ConvTranspose"]
    assert_same(source, result, inputs)


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"pads": [1, 1, 1, 1]},
        {"pads": [2, 2, 2, 1]},
        {"pads": [2, 2, 2, 2], "dilations": [2, 2]},
        {"pads": [2, 2, 2, 2], "strides": [2, 2]},
        {"kernel": 1, "strides": [2, 2]},
        {"kernel": 1, "strides": [2, 2], "output_padding": [1, 1]},
        {"auto_pad": "SAME_UPPER"},
    ],
)
def test_batchnorm_is_kept_where_positions_see_different_taps(attributes: dict[str, Any]) -> None:
    source, _ = transposed(np.random.default_rng(2), False, **attributes)

    result, report = folded(source)

    assert operators(result) == ["BatchNormalization", "ConvTranspose"]
    assert report.entries[0].reason_code == "graph-input/uneven-taps"
