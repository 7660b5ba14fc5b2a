"""Every operator that an affine passes: between a layer and a BatchNormalization, in both directions.

Each row puts its nodes between `a` and `b`. Backwards: Conv -> a -> row -> b -> BatchNormalization; forwards:
BatchNormalization -> a -> row -> b -> Conv or Gemm. A Tanh at the far end leaves only one direction open.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import NodeProto, helper

from normfold.export.fold.report import Outcome
from tests.support.onnx_models import assert_same, batchnorm, folded, model, statistics

CHANNELS, SIZE = 8, 6


def node(op_type: str, inputs: str = "a", outputs: str = "b", **attributes: Any) -> NodeProto:
    return helper.make_node(op_type, inputs.replace("-", "").split(" "), outputs.split(" "), **attributes)


@dataclass
class Row:
    """Nodes between a (n, 8, 6, 6) and b, what they need, and how the affine must be for them to pass it."""

    nodes: list[NodeProto]
    constants: dict[str, Any] = field(default_factory=dict)
    out: tuple[int, ...] = (CHANNELS, SIZE, SIZE)
    change: Callable[[dict[str, Any]], None] | None = None
    opset: int = 18
    back: str | None = None
    forward: str | None = None
    passes_with_known_sizes: bool = False
    """Whether `back` and `forward` hold for an unknown number of rows alone."""


def positive(constants: dict[str, Any]) -> None:
    constants["bn.scale"] = np.abs(constants["bn.scale"]) + 0.1


def without_offset(constants: dict[str, Any]) -> None:
    positive(constants)
    constants["bn.shift"] = constants["bn.mean"] = np.zeros_like(constants["bn.mean"])


def one_negative(constants: dict[str, Any]) -> None:
    positive(constants)
    constants["bn.scale"][1] *= -1


def one_negative_without_offset(constants: dict[str, Any]) -> None:
    one_negative(constants)
    gain_only(constants)


def not_negative(constants: dict[str, Any]) -> None:
    constants["bn.scale"] = np.abs(constants["bn.scale"])
    assert not constants["bn.scale"].all()


def not_negative_without_offset(constants: dict[str, Any]) -> None:
    not_negative(constants)
    gain_only(constants)


def gain_only(constants: dict[str, Any]) -> None:
    constants["bn.shift"] = constants["bn.mean"] = np.zeros_like(constants["bn.mean"])


def uniform(constants: dict[str, Any]) -> None:
    for name, number in (("scale", 0.5), ("shift", 0.25), ("mean", -1.0), ("var", 2.0)):
        constants[f"bn.{name}"] = np.full_like(constants[f"bn.{name}"], number)


def ints(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


FLAT = CHANNELS * SIZE * SIZE
VECTOR = np.linspace(0.5, 2.0, CHANNELS).reshape(CHANNELS, 1, 1)

ONE = {"limit": np.float64(0), "first": ints(0), "two": ints(2)}
"""Constants of MASK and COMPUTED."""

MASK = [node("Greater", "z limit", "mask")]
COMPUTED = [
    node("ReduceMax", "z", "highest", keepdims=0),
    node("Greater", "highest limit", "is_above"),
    node("Cast", "is_above", "i0", to=onnx.TensorProto.INT64),
    node("Unsqueeze", "i0 first", "i1"),
    node("Add", "i1 two", "i2"),
]
"""Nodes that make an index, i0, and a vector of one number, i2, that are known only when the model runs."""

ZERO = helper.make_tensor("value", onnx.TensorProto.DOUBLE, [1], [0.0])

GRID = {"grid": np.random.default_rng(3).uniform(-1.6, 1.6, size=(2, 5, 4, 2))}
ROIS = {"rois": np.array([[-2.0, -1, 3, 4], [0, 0, 5, 5], [2, 3, 9, 8]]), "rows": ints(0, 1, 1)}

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
    "Relu": Row([node("Relu")], change=without_offset),
    "LeakyRelu": Row([node("LeakyRelu", alpha=0.1)], change=without_offset),
    "PRelu": Row([node("PRelu", "a p")], {"p": VECTOR - 1}, change=without_offset),
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
    "DepthToSpace": Row([node("DepthToSpace", blocksize=2)], out=(2, 12, 12), forward="block-not-uniform"),
    "DepthToSpace CRD": Row(
        [node("DepthToSpace", blocksize=2, mode="CRD")], out=(2, 12, 12), forward="block-not-uniform"
    ),
    "DepthToSpace, uniform affine": Row([node("DepthToSpace", blocksize=2)], out=(2, 12, 12), change=uniform),
    "SpaceToDepth": Row([node("SpaceToDepth", blocksize=2)], out=(32, 3, 3), back="block-not-uniform"),
    "SpaceToDepth, uniform affine": Row([node("SpaceToDepth", blocksize=2)], out=(32, 3, 3), change=uniform),
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
    "Mul by a vector": Row([node("Mul", "a k")], {"k": VECTOR}),
    "Mul by a scalar": Row([node("Mul", "k a")], {"k": np.float64(0.5)}),
    "Div by a vector": Row([node("Div", "a k")], {"k": VECTOR}, change=positive),
    "Add of a vector": Row([node("Add", "k a")], {"k": VECTOR}),
    "Sub of a vector": Row([node("Sub", "a k")], {"k": VECTOR}),
    "Sub from a scalar": Row([node("Sub", "k a")], {"k": np.float64(2)}),
    "Div of a constant": Row([node("Div", "k a")], {"k": VECTOR}, back="reciprocal", forward="reciprocal"),
    "Add of itself, doubled": Row([node("Add", "a a")], back="conflict"),
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
    "Softmax": Row([node("Softmax", axis=1)], back="operator", forward="operator"),
    "Tanh": Row([node("Tanh")], back="operator", forward="operator"),
    "Relu with an offset": Row([node("Relu")], change=positive, back="non-linear", forward="non-linear"),
    "Relu with a negative gain": Row(
        [node("Relu")], change=one_negative_without_offset, back="gain-sign", forward="gain-sign"
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
    "Pad zero with an offset": Row(
        [node("Pad", "a q")],
        {"q": ints(0, 0, 1, 1, 0, 0, 1, 1)},
        (CHANNELS, 8, 8),
        change=positive,
        back="padding-not-uniform",
        forward="padding-not-uniform",
    ),
    "Mul of two activations": Row([node("Mul", "a z")], back="product-offset", forward="product-offset"),
    "Mul of two activations, gain alone": Row([node("Mul", "a z")], change=gain_only),
    "Cast to integers": Row(
        [node("Cast", "a", "c", to=onnx.TensorProto.INT64), node("Cast", "c", to=onnx.TensorProto.DOUBLE)],
        back="non-linear",
        forward="non-linear",
    ),
}


def around(row: Row, back: bool, batch: int | str) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """Put a row between a layer and a BatchNormalization."""
    rng = np.random.default_rng(0)
    inputs = {"x": [batch, CHANNELS, SIZE, SIZE]}
    if any("z" in each.input for each in row.nodes) and "z" not in row.constants:
        inputs["z"] = [batch, CHANNELS, SIZE, SIZE]
    if back:
        first = helper.make_node("Conv", ["x", "w"], ["a"], name="layer")
        nodes = [first, *row.nodes, batchnorm("b", "n"), node("Tanh", "n", "y")]
        constants = {"w": rng.normal(size=(CHANNELS, CHANNELS, 1, 1))} | statistics(rng, row.out[0])
    else:
        last = helper.make_node("Conv", ["b", "w"], ["y"], name="layer")
        nodes = [node("Tanh", "x", "s0"), batchnorm("s0", "a"), *row.nodes, last]
        constants = {"w": rng.normal(size=(3, row.out[0], 1, 1))} | statistics(rng, CHANNELS)
    if row.change is not None:
        row.change(constants)
    outputs = ["y", *(["other"] if any("other" in each.output for each in row.nodes) else [])]
    source = model(nodes, inputs, outputs, constants | row.constants, opset=row.opset)
    return source, {name: rng.normal(size=[2, *shape[1:]]) for name, shape in inputs.items()}


@pytest.mark.parametrize("batch", ["batch", 2])
@pytest.mark.parametrize("back", [True, False], ids=["back", "forward"])
@pytest.mark.parametrize("name", ROWS)
def test_an_affine_passes_or_is_kept_with_the_reason(name: str, back: bool, batch: int | str) -> None:
    row = ROWS[name]
    source, inputs = around(row, back, batch)

    result, report = folded(source)

    rejected = row.back if back else row.forward
    if row.passes_with_known_sizes and batch == 2:
        rejected = None
    (entry,) = report.entries
    if rejected is None:
        assert entry.outcome is (Outcome.FOLDED_BACK if back else Outcome.FOLDED_FORWARD), entry.reason
        assert "layer" in entry.into
        assert len(result.graph.node) < len(source.graph.node)
    else:
        assert entry.outcome is Outcome.KEPT
        assert entry.reason_code is not None
        assert entry.reason_code.split("/")[0 if back else 1] == rejected
    assert_same(source, result, inputs)
