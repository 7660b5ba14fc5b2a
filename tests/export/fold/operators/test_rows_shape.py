"""Operators that move, repeat, split or join values: Reshape, Transpose, Tile, Split, Concat and their like.

`tests.support.fold.rows` says how a row is tested.
"""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

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
    positive,
    uniform,
)

ZERO = helper.make_tensor("value", onnx.TensorProto.DOUBLE, [1], [0.0])

ROWS: dict[str, Row] = {
    "Identity": Row([node("Identity")]),
    "Cast": Row([node("Cast", to=onnx.TensorProto.DOUBLE)]),
    "Reshape splits the spatial axes": Row(
        [node("Reshape", "a s")], {"s": ints(0, CHANNELS, -1, 2)}, (CHANNELS, 18, 2)
    ),
    "Reshape and back": Row(
        [node("Reshape", "a s", "c"), node("Reshape", "c t")],
        {"s": ints(0, 2, 4, SIZE, SIZE), "t": ints(0, CHANNELS, SIZE, SIZE)},
    ),
    "Flatten and Reshape": Row(
        [node("Flatten", "a", "c"), node("Reshape", "c t")], {"t": ints(-1, CHANNELS, SIZE, SIZE)}
    ),
    "Transpose there and back": Row(
        [node("Transpose", "a", "c", perm=[0, 2, 3, 1]), node("Transpose", "c", "b", perm=[0, 3, 1, 2])]
    ),
    "Unsqueeze and Squeeze": Row([node("Unsqueeze", "a ax", "c"), node("Squeeze", "c ax")], {"ax": ints(1)}),
    "Squeeze by attribute": Row([node("Unsqueeze", "a", "c", axes=[4]), node("Squeeze", "c", "b", axes=[4])], opset=11),
    "DepthToSpace": Row([node("DepthToSpace", blocksize=2)], out=(2, 12, 12), forward="block-not-uniform"),
    "DepthToSpace CRD": Row(
        [node("DepthToSpace", blocksize=2, mode="CRD")], out=(2, 12, 12), forward="block-not-uniform"
    ),
    "DepthToSpace, uniform affine": Row([node("DepthToSpace", blocksize=2)], out=(2, 12, 12), change=uniform),
    "SpaceToDepth": Row([node("SpaceToDepth", blocksize=2)], out=(32, 3, 3), back="block-not-uniform"),
    "SpaceToDepth, uniform affine": Row([node("SpaceToDepth", blocksize=2)], out=(32, 3, 3), change=uniform),
    "Split": Row(
        [node("Split", "a s", "b rest", axis=1), node("Sigmoid", "rest", "other")],
        {"s": ints(3, 5)},
        (3, SIZE, SIZE),
        forward="operator",
    ),
    "Split and Concat": Row([node("Split", "a s", "c d", axis=1), node("Concat", "d c", axis=1)], {"s": ints(3, 5)}),
    "Concat with something else": Row(
        [node("Sigmoid", "z", "c"), node("Concat", "a c", axis=1)], out=(2 * CHANNELS, SIZE, SIZE), back="operator"
    ),
    "Concat of positions": Row([node("Concat", "a a", axis=3)], out=(CHANNELS, SIZE, 12)),
    "Expand": Row(
        [node("ReduceMean", "a ax", "c"), node("Expand", "c s")],
        {"ax": ints(2, 3), "s": ints(1, CHANNELS, 2, 3)},
        (CHANNELS, 2, 3),
    ),
    "Tile of positions": Row([node("Tile", "a r")], {"r": ints(1, 1, 2, 3)}, (CHANNELS, 12, 18)),
    "Tile of channels": Row([node("Tile", "a r")], {"r": ints(1, 2, 1, 1)}, (16, SIZE, SIZE), back="expanded"),
    "Tile of channels, uniform affine": Row(
        [node("Tile", "a r")], {"r": ints(1, 2, 1, 1)}, (16, SIZE, SIZE), change=uniform
    ),
    "Tile of one channel": Row(
        [node("ReduceSum", "a ax", "c"), node("Tile", "c r")],
        {"ax": ints(1), "r": ints(1, 3, 1, 1)},
        (3, SIZE, SIZE),
        change=uniform,
    ),
    "Tile by numbers of which one is computed": Row(
        [*COMPUTED, node("Concat", "one one i2 one", "r", axis=0), node("Tile", "a r")], {**ONE, "one": ints(1)}
    ),
    "Tile by computed numbers, of a known size": Row(
        [*COMPUTED, node("Concat", "one i2 one one", "r", axis=0), node("Tile", "a r")],
        {**ONE, "one": ints(1)},
        (3 * CHANNELS, SIZE, SIZE),
        back="expanded",
    ),
    "Concat of channels with a constant": Row(
        [node("Concat", "a k", axis=1)],
        {"k": np.linspace(-1, 1, 216).reshape(2, 3, SIZE, SIZE)},
        (CHANNELS + 3, SIZE, SIZE),
    ),
    "Concat of positions with a constant": Row(
        [node("Concat", "k a", axis=-1)],
        {"k": np.linspace(-1, 1, 192).reshape(2, CHANNELS, SIZE, 2)},
        (CHANNELS, SIZE, SIZE + 2),
        change=positive,
    ),
    "Concat of positions with a constant, any gain": Row(
        [node("Concat", "k a", axis=-1)],
        {"k": np.linspace(-1, 1, 192).reshape(2, CHANNELS, SIZE, 2)},
        (CHANNELS, SIZE, SIZE + 2),
        forward="not-per-channel",
    ),
    "ConstantOfShape beside the channels": Row(
        [node("Shape", "z", "s"), node("ConstantOfShape", "s", "c", value=ZERO), node("Concat", "a c", axis=1)],
        out=(2 * CHANNELS, SIZE, SIZE),
        change=gain_only,
    ),
    "ConstantOfShape beside the channels, uniform affine": Row(
        [node("Shape", "z", "s"), node("ConstantOfShape", "s", "c", value=ZERO), node("Concat", "c a", axis=2)],
        out=(CHANNELS, 2 * SIZE, SIZE),
        change=uniform,
        forward="not-per-channel",
        passes_with_known_sizes=True,
    ),
}


@pytest.mark.parametrize("batch", ["batch", 2])
@pytest.mark.parametrize("back", [True, False], ids=["back", "forward"])
@pytest.mark.parametrize("name", ROWS)
def test_operator_of_shape_passes_an_affine_or_is_kept_with_the_reason(name: str, back: bool, batch: int | str) -> None:
    check_row(ROWS[name], back, batch)
