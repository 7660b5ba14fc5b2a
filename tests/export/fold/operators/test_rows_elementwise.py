"""Elementwise operators: activations, arithmetic, choices between two values.

`tests.support.fold.rows` says how a row is tested.
"""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from tests.support.fold.rows import (
    MASK,
    ONE,
    VECTOR,
    Row,
    check_row,
    gain_only,
    node,
    not_negative,
    not_negative_without_offset,
    one_negative,
    one_negative_without_offset,
    positive,
    uniform,
    without_offset,
)

ROWS: dict[str, Row] = {
    "Relu": Row([node("Relu")], change=without_offset),
    "LeakyRelu": Row([node("LeakyRelu", alpha=0.1)], change=without_offset),
    "PRelu": Row([node("PRelu", "a p")], {"p": VECTOR - 1}, change=without_offset),
    "Mul by a vector": Row([node("Mul", "a k")], {"k": VECTOR}),
    "Mul by a scalar": Row([node("Mul", "k a")], {"k": np.float64(0.5)}),
    "Div by a vector": Row([node("Div", "a k")], {"k": VECTOR}, change=positive),
    "Add of a vector": Row([node("Add", "k a")], {"k": VECTOR}),
    "Sub of a vector": Row([node("Sub", "a k")], {"k": VECTOR}),
    "Sub from a scalar": Row([node("Sub", "k a")], {"k": np.float64(2)}),
    "Div of a constant": Row([node("Div", "k a")], {"k": VECTOR}, back="reciprocal", forward="reciprocal"),
    "Add of itself, doubled": Row([node("Add", "a a")], back="conflict"),
    "Relu with a gain of zero": Row([node("Relu")], change=not_negative_without_offset),
    "LeakyRelu with a gain of zero": Row([node("LeakyRelu", alpha=-0.5)], change=not_negative_without_offset),
    "PRelu with a gain of zero": Row([node("PRelu", "a p")], {"p": VECTOR - 1}, change=not_negative_without_offset),
    "Max with a constant": Row([node("Max", "a k")], {"k": VECTOR}, change=positive),
    "Max with a scalar": Row([node("Max", "k a")], {"k": np.float64(0)}, change=positive),
    "Min with a constant": Row([node("Min", "a k")], {"k": VECTOR}, change=positive),
    "Max with a constant, a gain of zero": Row(
        [node("Max", "a k")], {"k": VECTOR}, change=not_negative, forward="zero-gain"
    ),
    "Max with a constant, a negative gain": Row(
        [node("Max", "a k")], {"k": VECTOR}, change=one_negative, back="gain-sign", forward="gain-sign"
    ),
    "Max with itself, a gain of zero": Row([node("Identity", "a", "c"), node("Max", "a c")], change=not_negative),
    "Max with another value": Row(
        [node("Sigmoid", "z", "c"), node("Max", "a c")], change=positive, back="operator", forward="unequal-gains"
    ),
    "Where with a constant": Row([*MASK, node("Where", "mask k a")], {**ONE, "k": np.float64(0.5)}, change=positive),
    "Where with a constant vector": Row([*MASK, node("Where", "mask a k")], {**ONE, "k": VECTOR}, change=positive),
    "Where with a constant, any gain": Row(
        [*MASK, node("Where", "mask k a")], {**ONE, "k": VECTOR}, forward="zero-gain"
    ),
    "Where of one value": Row([*MASK, node("Where", "mask a a")], ONE),
    "Where with another value": Row(
        [*MASK, node("Sigmoid", "z", "c"), node("Where", "mask a c")], ONE, back="operator", forward="unequal-gains"
    ),
    "Mean with a constant": Row([node("Mean", "a k")], {"k": VECTOR}, change=positive),
    "Mean with a constant, any gain": Row([node("Mean", "a k")], {"k": VECTOR}, forward="zero-gain"),
    "Mean with another value": Row(
        [node("Sigmoid", "z", "c"), node("Mean", "a c")], back="operator", forward="unequal-gains"
    ),
    "Sum with a constant among its branches": Row([node("Sum", "a k a")], {"k": VECTOR}, change=positive),
    "Neg": Row([node("Neg")]),
    "Abs": Row([node("Abs")], change=not_negative_without_offset),
    "Abs with an offset": Row([node("Abs")], change=positive, back="non-linear", forward="non-linear"),
    "Clip as a Relu": Row([node("Clip", "a k")], {"k": np.float64(0)}, change=without_offset),
    "Clip as a Relu, by attribute": Row(
        [node("Clip", min=0.0, max=3.4028234663852886e38)], change=without_offset, opset=9
    ),
    "Clip with a uniform affine": Row(
        [node("Clip", "a k l")], {"k": np.float64(-1), "l": np.float64(0.5)}, change=uniform
    ),
    "Clip without bounds": Row([node("Clip")], change=positive),
    "Clip": Row(
        [node("Clip", "a - k")], {"k": np.float64(6)}, change=positive, back="non-linear", forward="non-linear"
    ),
    "Clip with a gain of zero": Row(
        [node("Clip", "a k")], {"k": np.float64(0)}, change=not_negative_without_offset, forward="zero-gain"
    ),
    "Clip with a negative gain": Row(
        [node("Clip", "a k")], {"k": np.float64(0)}, change=one_negative, back="gain-sign", forward="gain-sign"
    ),
    "Softmax": Row([node("Softmax", axis=1)], back="operator", forward="operator"),
    "Tanh": Row([node("Tanh")], back="operator", forward="operator"),
    "Relu with an offset": Row([node("Relu")], change=positive, back="non-linear", forward="non-linear"),
    "Relu with a negative gain": Row(
        [node("Relu")], change=one_negative_without_offset, back="gain-sign", forward="gain-sign"
    ),
    "Mul of two activations": Row([node("Mul", "a z")], back="product-offset", forward="product-offset"),
    "Mul of two activations, gain alone": Row([node("Mul", "a z")], change=gain_only),
    "Cast to integers": Row(
        [node("Cast", "a", "c", to=onnx.TensorProto.INT64), node("Cast", "c", to=onnx.TensorProto.DOUBLE)],
        back="non-linear",
        forward="non-linear",
    ),
}


@pytest.mark.parametrize("batch", ["batch", 2])
@pytest.mark.parametrize("back", [True, False], ids=["back", "forward"])
@pytest.mark.parametrize("name", ROWS)
def test_elementwise_operator_passes_an_affine_or_is_kept_with_the_reason(
    name: str, back: bool, batch: int | str
) -> None:
    check_row(ROWS[name], back, batch)
