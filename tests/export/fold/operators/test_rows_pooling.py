"""Operators that compute one value of several: pooling and reductions.

`tests.support.fold.rows` says how a row is tested.
"""

from __future__ import annotations

import pytest

from tests.support.fold.rows import (
    CHANNELS,
    SIZE,
    Row,
    check_row,
    gain_only,
    ints,
    node,
    not_negative,
    not_negative_without_offset,
    one_negative,
    positive,
)

ROWS: dict[str, Row] = {
    "AveragePool": Row([node("AveragePool", kernel_shape=[2, 2], strides=[2, 2])], out=(CHANNELS, 3, 3)),
    "AveragePool that leaves padding out": Row([node("AveragePool", kernel_shape=[3, 3], pads=[1, 1, 1, 1])]),
    "AveragePool that counts padding": Row(
        [node("AveragePool", kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1)], change=gain_only
    ),
    "GlobalAveragePool": Row([node("GlobalAveragePool")], out=(CHANNELS, 1, 1)),
    "ReduceMean": Row([node("ReduceMean", "a ax")], {"ax": ints(2, 3)}, (CHANNELS, 1, 1)),
    "ReduceMean by attribute": Row([node("ReduceMean", axes=[-1])], out=(CHANNELS, SIZE, 1), opset=13),
    "ReduceMean without the axis, and Unsqueeze": Row(
        [node("ReduceMean", "a ax", "c", keepdims=0), node("Unsqueeze", "c ax")], {"ax": ints(3)}, (CHANNELS, SIZE, 1)
    ),
    "ReduceMax": Row([node("ReduceMax", "a ax")], {"ax": ints(2)}, (CHANNELS, 1, SIZE), change=positive),
    "MaxPool": Row([node("MaxPool", kernel_shape=[3, 3], pads=[1, 1, 1, 1])], change=positive),
    "GlobalMaxPool": Row([node("GlobalMaxPool")], out=(CHANNELS, 1, 1), change=positive),
    "ReduceSum": Row([node("ReduceSum", "a ax")], {"ax": ints(2, 3)}, (CHANNELS, 1, 1)),
    "ReduceSum by attribute": Row([node("ReduceSum", axes=[-1])], out=(CHANNELS, SIZE, 1), opset=11),
    "ReduceSum without the axis, and Unsqueeze": Row(
        [node("ReduceSum", "a ax", "c", keepdims=0), node("Unsqueeze", "c ax")], {"ax": ints(2)}, (CHANNELS, 1, SIZE)
    ),
    "ReduceSum over channels": Row(
        [node("ReduceSum", "a ax")], {"ax": ints(1)}, (1, SIZE, SIZE), forward="reduced-axis"
    ),
    "ReduceSum of nothing": Row([node("ReduceSum", noop_with_empty_axes=1)]),
    "ReduceMin": Row([node("ReduceMin", "a ax")], {"ax": ints(3)}, (CHANNELS, SIZE, 1), change=not_negative),
    "ReduceMin with a negative gain": Row(
        [node("ReduceMin", "a ax")],
        {"ax": ints(3)},
        (CHANNELS, SIZE, 1),
        change=one_negative,
        back="gain-sign",
        forward="gain-sign",
    ),
    "ReduceMax with a gain of zero": Row(
        [node("ReduceMax", "a ax")], {"ax": ints(2)}, (CHANNELS, 1, SIZE), change=not_negative
    ),
    "MaxPool with a gain of zero": Row([node("MaxPool", kernel_shape=[3, 3], pads=[1] * 4)], change=not_negative),
    "GlobalMaxPool with a gain of zero": Row([node("GlobalMaxPool")], out=(CHANNELS, 1, 1), change=not_negative),
    "ReduceL2": Row(
        [node("ReduceL2", "a ax")], {"ax": ints(2, 3)}, (CHANNELS, 1, 1), change=not_negative_without_offset
    ),
    "ReduceL1 by attribute": Row(
        [node("ReduceL1", axes=[-1])], out=(CHANNELS, SIZE, 1), change=not_negative_without_offset, opset=13
    ),
    "ReduceL2 with an offset": Row(
        [node("ReduceL2", "a ax")],
        {"ax": ints(2, 3)},
        (CHANNELS, 1, 1),
        change=positive,
        back="non-linear",
        forward="non-linear",
    ),
    "LpPool": Row([node("LpPool", kernel_shape=[2, 2], p=2)], out=(CHANNELS, 5, 5), change=not_negative_without_offset),
    "LpPool with an offset": Row(
        [node("LpPool", kernel_shape=[2, 2])],
        out=(CHANNELS, 5, 5),
        change=positive,
        back="non-linear",
        forward="non-linear",
    ),
    "LpPool with a negative gain": Row(
        [node("LpPool", kernel_shape=[2, 2])],
        out=(CHANNELS, 5, 5),
        change=one_negative,
        back="gain-sign",
        forward="gain-sign",
    ),
    "MaxPool with a negative gain": Row(
        [node("MaxPool", kernel_shape=[2, 2])],
        out=(CHANNELS, 5, 5),
        change=one_negative,
        back="gain-sign",
        forward="gain-sign",
    ),
    "AveragePool that counts padding, with an offset": Row(
        [node("AveragePool", kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1)],
        back="zero-padding",
        forward="zero-padding",
    ),
}


@pytest.mark.parametrize("batch", ["batch", 2])
@pytest.mark.parametrize("back", [True, False], ids=["back", "forward"])
@pytest.mark.parametrize("name", ROWS)
def test_pooling_passes_an_affine_or_is_kept_with_the_reason(name: str, back: bool, batch: int | str) -> None:
    check_row(ROWS[name], back, batch)
