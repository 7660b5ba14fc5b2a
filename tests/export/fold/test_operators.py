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


def positive(constants: dict[str, Any]) -> None:
    constants["bn.scale"] = np.abs(constants["bn.scale"]) + 0.1


def without_offset(constants: dict[str, Any]) -> None:
    positive(constants)
    constants["bn.shift"] = constants["bn.mean"] = np.zeros_like(constants["bn.mean"])


def gain_only(constants: dict[str, Any]) -> None:
    constants["bn.shift"] = constants["bn.mean"] = np.zeros_like(constants["bn.mean"])


def uniform(constants: dict[str, Any]) -> None:
    for name, number in (("scale", 0.5), ("shift", 0.25), ("mean", -1.0), ("var", 2.0)):
        constants[f"bn.{name}"] = np.full_like(constants[f"bn.{name}"], number)


def ints(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


FLAT = CHANNELS * SIZE * SIZE
VECTOR = np.linspace(0.5, 2.0, CHANNELS).reshape(CHANNELS, 1, 1)

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
    "Softmax": Row([node("Softmax", axis=1)], back="operator", forward="operator"),
    "Tanh": Row([node("Tanh")], back="operator", forward="operator"),
    "Relu with an offset": Row([node("Relu")], change=positive, back="non-linear", forward="non-linear"),
    "Relu with a negative gain": Row([node("Relu")], back="gain-sign", forward="gain-sign"),
    "MaxPool with a negative gain": Row(
        [node("MaxPool", kernel_shape=[2, 2])], out=(CHANNELS, 5, 5), back="gain-sign", forward="gain-sign"
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
