"""Tests of the operators that an affine passes: between a layer and a BatchNormalization, in both directions.

Each row puts its nodes between `a` and `b`. Backwards: Conv -> a -> row -> b -> BatchNormalization; forwards:
BatchNormalization -> a -> row -> b -> Conv or Gemm. A Tanh at the far end leaves only one direction open.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, helper

from normfold.export.fold.report import Outcome
from tests.support.onnx_models import assert_same, batchnorm, folded, model, statistics

CHANNELS, SIZE = 8, 6


def node(op_type: str, inputs: str = "a", outputs: str = "b", **attributes: Any) -> NodeProto:
    """Make a node from `a` to `b`; a - stands for an input that is left out."""
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
    """Make every gain positive."""
    constants["bn.scale"] = np.abs(constants["bn.scale"]) + 0.1


def without_offset(constants: dict[str, Any]) -> None:
    """Make every gain positive and every offset zero."""
    positive(constants)
    constants["bn.shift"] = constants["bn.mean"] = np.zeros_like(constants["bn.mean"])


def one_negative(constants: dict[str, Any]) -> None:
    """Make one gain negative, the others positive."""
    positive(constants)
    constants["bn.scale"][1] *= -1


def one_negative_without_offset(constants: dict[str, Any]) -> None:
    """Make one gain negative, the others positive, and every offset zero."""
    one_negative(constants)
    gain_only(constants)


def not_negative(constants: dict[str, Any]) -> None:
    """Make every gain positive or zero; one at least is zero."""
    constants["bn.scale"] = np.abs(constants["bn.scale"])
    assert not constants["bn.scale"].all()


def not_negative_without_offset(constants: dict[str, Any]) -> None:
    """Make every gain positive or zero, and every offset zero."""
    not_negative(constants)
    gain_only(constants)


def gain_only(constants: dict[str, Any]) -> None:
    """Make every offset zero."""
    constants["bn.shift"] = constants["bn.mean"] = np.zeros_like(constants["bn.mean"])


def uniform(constants: dict[str, Any]) -> None:
    """Make the affine the same in every channel."""
    for name, number in (("scale", 0.5), ("shift", 0.25), ("mean", -1.0), ("var", 2.0)):
        constants[f"bn.{name}"] = np.full_like(constants[f"bn.{name}"], number)


def ints(*numbers: int) -> np.ndarray:
    """Make a vector of integers, as ONNX takes for axes and sizes."""
    return np.array(numbers, np.int64)


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


def check_row(row: Row, back: bool, batch: int | str) -> None:
    """Fold a row's graph: the affine passes or is kept with the row's reason, and the outputs stay the same."""
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
