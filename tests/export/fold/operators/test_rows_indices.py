"""Operators that choose values by their positions: Slice, Gather, Compress, ReverseSequence.

`tests.support.fold.rows` says how a row is tested.
"""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.fold.rows import CHANNELS, COMPUTED, ONE, SIZE, Row, check_row, ints, node, uniform

ROWS: dict[str, Row] = {
    "Slice of channels": Row(
        [node("Slice", "a s e ax t")], {"s": ints(1), "e": ints(7), "ax": ints(1), "t": ints(2)}, (3, SIZE, SIZE)
    ),
    "Slice backwards": Row(
        [node("Slice", "a s e ax t")], {"s": ints(-1), "e": ints(-(2**63)), "ax": ints(1), "t": ints(-1)}
    ),
    "Slice by attribute": Row([node("Slice", starts=[2], ends=[100], axes=[1])], out=(6, SIZE, SIZE), opset=9),
    "Slice of positions": Row(
        [node("Slice", "a s e ax")], {"s": ints(1), "e": ints(5), "ax": ints(3)}, (CHANNELS, SIZE, 4)
    ),
    "Gather": Row([node("Gather", "a i", axis=1)], {"i": ints(3, 0, -1)}, (3, SIZE, SIZE)),
    "Gather that drops an axis": Row(
        [node("Gather", "a i", "c", axis=2), node("Unsqueeze", "c ax")],
        {"i": np.int64(-1), "ax": ints(2)},
        (CHANNELS, 1, SIZE),
    ),
    "Gather of one channel that drops the axis": Row(
        [node("Gather", "a i", "c", axis=1), node("Unsqueeze", "c ax")],
        {"i": np.int64(3), "ax": ints(1)},
        (1, SIZE, SIZE),
    ),
    "Gather of channels by a matrix": Row(
        [node("Gather", "a i", "c", axis=1), node("Reshape", "c s")],
        {"i": np.array([[0, 3], [5, -1]]), "s": ints(0, 4, SIZE, SIZE)},
        (4, SIZE, SIZE),
    ),
    "Gather of positions by a matrix": Row(
        [node("Gather", "a i", "c", axis=3), node("Reshape", "c s")],
        {"i": np.array([[0, 3, 0], [5, -1, 2]]), "s": ints(0, CHANNELS, SIZE, SIZE)},
    ),
    "Gather of a channel twice": Row(
        [node("Gather", "a i", axis=1)], {"i": ints(3, 3)}, (2, SIZE, SIZE), back="repeated"
    ),
    "Gather of a channel twice, uniform affine": Row(
        [node("Gather", "a i", axis=1)], {"i": ints(3, 3)}, (2, SIZE, SIZE), change=uniform
    ),
    "Gather by a computed index of another axis": Row(
        [*COMPUTED, node("Gather", "a i0", "c", axis=3), node("Unsqueeze", "c ax")],
        {**ONE, "ax": ints(3)},
        (CHANNELS, SIZE, 1),
    ),
    "Gather by computed indices of channels": Row(
        [*COMPUTED, node("Concat", "i2 i2", "i", axis=0), node("Gather", "a i", axis=1)],
        ONE,
        (2, SIZE, SIZE),
        back="computed-indices",
        forward="computed-indices",
    ),
    "Slice to a computed end of another axis": Row(
        [*COMPUTED, node("Slice", "a s i2 ax")], {**ONE, "s": ints(0), "ax": ints(-1)}
    ),
    "Slice to a computed end of the first axis": Row([*COMPUTED, node("Slice", "a s i2")], {**ONE, "s": ints(0)}),
    "Slice to a computed end of the channels": Row(
        [*COMPUTED, node("Slice", "a s i2 ax")],
        {**ONE, "s": ints(0), "ax": ints(1)},
        (3, SIZE, SIZE),
        back="computed-indices",
        forward="computed-indices",
    ),
    "Slice of computed axes": Row(
        [*COMPUTED, node("Slice", "a s e i2")],
        {**ONE, "s": ints(1), "e": ints(5)},
        back="computed-indices",
        forward="computed-indices",
    ),
    "Compress of positions": Row(
        [node("Compress", "a mask", axis=2)],
        {"mask": np.array([True, False, True, True, False, False])},
        (CHANNELS, 3, SIZE),
    ),
    "Compress of channels": Row(
        [node("Compress", "a mask", axis=1)],
        {"mask": np.arange(CHANNELS) > 4},
        (3, SIZE, SIZE),
        back="operator",
        forward="operator",
    ),
    "ReverseSequence of positions": Row(
        [node("ReverseSequence", "a lengths", batch_axis=0, time_axis=2)], {"lengths": ints(3, 5)}
    ),
    "ReverseSequence of channels": Row(
        [node("ReverseSequence", "a lengths", batch_axis=0, time_axis=1)],
        {"lengths": ints(3, 5)},
        back="operator",
        forward="operator",
    ),
    "GatherElements of positions": Row(
        [node("GatherElements", "a i", axis=3)],
        {"i": np.random.default_rng(4).integers(-SIZE, SIZE, (2, CHANNELS, SIZE, 3))},
        (CHANNELS, SIZE, 3),
    ),
    "GatherElements of channels": Row(
        [node("GatherElements", "a i", axis=1)],
        {"i": np.random.default_rng(4).integers(0, CHANNELS, (2, 5, SIZE, SIZE))},
        (5, SIZE, SIZE),
        back="operator",
        forward="operator",
    ),
}


@pytest.mark.parametrize("batch", ["batch", 2])
@pytest.mark.parametrize("back", [True, False], ids=["back", "forward"])
@pytest.mark.parametrize("name", ROWS)
def test_choice_of_values_passes_an_affine_or_is_kept_with_the_reason(name: str, back: bool, batch: int | str) -> None:
    check_row(ROWS[name], back, batch)
