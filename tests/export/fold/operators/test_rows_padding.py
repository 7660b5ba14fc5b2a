"""Operators that add a border or read between the values: Pad, Resize, GridSample, RoiAlign.

`tests.support.fold.rows` says how a row is tested.
"""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.fold.rows import (
    CHANNELS,
    COMPUTED,
    ONE,
    SIZE,
    Row,
    check_row,
    gain_only,
    ints,
    node,
    not_negative_without_offset,
    one_negative_without_offset,
    positive,
    uniform,
)

GRID = {"grid": np.random.default_rng(3).uniform(-1.6, 1.6, size=(2, 5, 4, 2))}
ROIS = {"rois": np.array([[-2.0, -1, 3, 4], [0, 0, 5, 5], [2, 3, 9, 8]]), "rows": ints(0, 1, 1)}

ROWS: dict[str, Row] = {
    "Resize": Row(
        [node("Resize", "a - z", mode="linear")], {"z": np.array([1, 1, 2, 2], np.float32)}, (CHANNELS, 12, 12)
    ),
    "Pad reflect": Row([node("Pad", "a q", mode="reflect")], {"q": ints(0, 0, 1, 1, 0, 0, 1, 1)}, (CHANNELS, 8, 8)),
    "Pad edge": Row([node("Pad", "a q", mode="edge")], {"q": ints(0, 0, 1, 0, 0, 0, 0, 1)}, (CHANNELS, 7, 7)),
    "Pad zero with a gain alone": Row(
        [node("Pad", "a q")],
        {"q": ints(0, 0, 1, 1, 0, 0, 1, 1)},
        (CHANNELS, 8, 8),
        change=gain_only,
        forward="zero-gain",
    ),
    "Pad with a constant, uniform affine": Row(
        [node("Pad", "a q v")],
        {"q": ints(0, 0, 1, 1, 0, 0, 1, 1), "v": np.float64(0.75)},
        (CHANNELS, 8, 8),
        change=uniform,
    ),
    "Pad that crops": Row([node("Pad", "a q")], {"q": ints(0, 0, -1, -1, 0, 0, 0, -2)}, (CHANNELS, 5, 3)),
    "Pad that crops channels": Row([node("Pad", "a q")], {"q": ints(0, -1, 0, 0, 0, -2, 0, 0)}, (5, SIZE, SIZE)),
    "Pad that crops, by attribute": Row([node("Pad", pads=[0, -2, 0, -1, 0, 0, 0, 0])], out=(6, SIZE, 5), opset=9),
    "Pad that crops the channels it names": Row(
        [node("Pad", "a q - ax")], {"q": ints(-3, -1), "ax": ints(-3)}, (4, SIZE, SIZE)
    ),
    "Pad that crops channels and pads positions": Row(
        [node("Pad", "a q")],
        {"q": ints(0, -1, 1, 0, 0, 0, 0, 1)},
        (7, 7, 7),
        change=gain_only,
    ),
    "Pad that crops channels and repeats the border": Row(
        [node("Pad", "a q", mode="edge")], {"q": ints(0, -1, 1, -2, 0, 0, 0, 1)}, (7, 7, 5)
    ),
    "Pad of channels": Row(
        [node("Pad", "a q")],
        {"q": ints(0, 1, 0, 0, 0, -1, 0, 0)},
        change=positive,
        back="padded-axis",
        forward="padded-axis",
    ),
    "Pad by computed pads of axes that it names": Row(
        [*COMPUTED, node("Concat", "i2 i2", "q", axis=0), node("Pad", "a q - ax", mode="edge")],
        {**ONE, "ax": ints(2)},
    ),
    "Pad by pads of which two are computed": Row(
        [*COMPUTED, node("Concat", "o o i2 o o o i2 o", "q", axis=0), node("Pad", "a q", mode="edge")],
        {**ONE, "o": ints(0)},
    ),
    "Pad by computed pads": Row(
        [*COMPUTED, node("Sub", "i2 three", "i3"), node("Concat", "o i3 o o o o o o", "q", axis=0), node("Pad", "a q")],
        {**ONE, "o": ints(0), "three": ints(3)},
        back="computed-pads",
        forward="computed-pads",
    ),
    "GridSample that reflects": Row(
        [node("GridSample", "a grid", padding_mode="reflection", mode="nearest", align_corners=1)],
        GRID,
        (CHANNELS, 5, 4),
        opset=16,
    ),
    "GridSample beyond the border, gain alone": Row(
        [node("GridSample", "a grid", mode="linear")], GRID, (CHANNELS, 5, 4), change=gain_only, opset=20
    ),
    "GridSample beyond the border": Row(
        [node("GridSample", "a grid")], GRID, (CHANNELS, 5, 4), opset=20, back="zero-padding", forward="zero-padding"
    ),
    "RoiAlign, gain alone": Row(
        [node("RoiAlign", "a rois rows", output_height=2, output_width=3)], ROIS, (CHANNELS, 2, 3), change=gain_only
    ),
    "RoiAlign": Row(
        [node("RoiAlign", "a rois rows", output_height=2, output_width=3)],
        ROIS,
        (CHANNELS, 2, 3),
        back="zero-padding",
        forward="zero-padding",
    ),
    "RoiAlign of maxima": Row(
        [node("RoiAlign", "a rois rows", mode="max", output_height=2, output_width=3)],
        ROIS,
        (CHANNELS, 2, 3),
        change=not_negative_without_offset,
    ),
    "RoiAlign of maxima, a negative gain": Row(
        [node("RoiAlign", "a rois rows", mode="max", output_height=2, output_width=3)],
        ROIS,
        (CHANNELS, 2, 3),
        change=one_negative_without_offset,
        back="gain-sign",
        forward="gain-sign",
    ),
    "Pad zero with an offset": Row(
        [node("Pad", "a q")],
        {"q": ints(0, 0, 1, 1, 0, 0, 1, 1)},
        (CHANNELS, 8, 8),
        change=positive,
        back="padding-not-uniform",
        forward="padding-not-uniform",
    ),
}


@pytest.mark.parametrize("batch", ["batch", 2])
@pytest.mark.parametrize("back", [True, False], ids=["back", "forward"])
@pytest.mark.parametrize("name", ROWS)
def test_padding_passes_an_affine_or_is_kept_with_the_reason(name: str, back: bool, batch: int | str) -> None:
    check_row(ROWS[name], back, batch)
