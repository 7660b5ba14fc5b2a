"""Values that float16 cannot hold: named, kept in float32 where that mends it, and refused where it does not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from normfold.export.errors import Float16OverflowError
from normfold.export.graph.nodes import node_label
from normfold.export.quantize.float16.emulate import Measured
from normfold.export.quantize.float16.float32_nodes import LAYERS
from normfold.export.quantize.float16.plan import Plan, Use
from normfold.export.quantize.float16.result import MAX_FLOAT16, ChannelStatistics, Headroom

DEVIATIONS = 8.0
"""Standard deviations from the mean that a value is expected to reach; 6 clip the heavy tails of last layers."""

_CARRYING = frozenset(
    {
        *(
            "Relu",
            "LeakyRelu",
            "Gelu",
            "HardSwish",
            "Swish",
            "Mish",
            "Dropout",
            "MaxPool",
            "GlobalMaxPool",
            "ReduceMax",
        ),
        *("Identity", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Expand", "Tile", "Concat", "Split"),
        *("Slice", "Gather", "Pad", "DepthToSpace", "SpaceToDepth"),
    }
)
"""Operators whose result may be as large as their operands, and is no larger."""


@dataclass(frozen=True)
class Magnitude:
    """The largest absolute value that a value of the graph reaches, and where that is known from."""

    reached: float
    basis: str


def magnitudes_of(
    plan: Plan,
    measured: Mapping[str, Measured],
    inputs: Mapping[str, float],
    statistics: Mapping[str, ChannelStatistics],
    keep_io: bool,
) -> dict[ir.Value, Magnitude]:
    """Return the magnitude of each value that is float16 anywhere."""
    found: dict[ir.Value, Magnitude] = {}
    expected = _expected_magnitudes(plan, statistics)
    for value in plan.values():
        if not plan.is_rounded(value) and (keep_io or not (value.is_graph_input() or value.is_graph_output())):
            continue
        name = value.name or ""
        if value.is_initializer() and not value.is_graph_input():
            if all(_is_bound(use) for use in plan.float16_uses(value)):
                continue
            known = Magnitude(_finite_magnitude(value), "as a constant")
        else:
            observed = measured[name].magnitude if name in measured else inputs.get(name, 0.0)
            known = Magnitude(observed, "on the inputs")
        if expected.get(value, 0.0) > known.reached:
            known = Magnitude(expected[value], "by its statistics")
        found[value] = known
    return found


def keep_overflowing(plan: Plan, magnitudes: Mapping[ir.Value, Magnitude], keep_io: bool) -> bool:
    """Keep in float32 what makes or reads a value beyond 65504.

    A layer may make such a value; where one reads it, the network's own scale does not suit float16.

    Returns:
        Whether anything was kept.

    Raises:
        Float16OverflowError: a layer would read such a value, or it is a float16 input or output of the network.
    """
    changed = False
    for value, each in magnitudes.items():
        if each.reached <= MAX_FLOAT16:
            continue
        for use in plan.float16_uses(value):
            if use.node.op_type in LAYERS:
                raise _overflow(value, magnitudes, use.node)
            plan.keep(use.node, f"it reads {value.name!r}, which reaches {each.reached:.6g} {each.basis}")
            changed = True
        if not keep_io and (value.is_graph_output() or value.is_graph_input()):
            raise _overflow(value, magnitudes, None)
        producer = value.producer()
        if producer is not None and plan.is_made_in_float16(value):
            plan.keep(producer, f"its result {value.name!r} reaches {each.reached:.6g} {each.basis}")
            changed = True
    return changed


def keep_not_finite(plan: Plan, measured: Mapping[str, Measured]) -> bool:
    """Keep the first node in float32 whose result is not finite in float16, and what makes its inputs.

    Such is a quotient whose divisor float16 rounds to zero.

    Returns:
        Whether there was one.

    Raises:
        Float16OverflowError: it is not finite, although the node and what makes its inputs compute in float32.
    """
    for value in plan.values():
        node = value.producer()
        if node is None or measured[value.name or ""].is_finite:
            continue
        reason = f"its result {value.name!r} is not finite with inputs in float16"
        nodes = [
            node,
            *(source for each in node.inputs if each is not None and (source := each.producer()) is not None),
        ]
        nodes = [each for each in nodes if each in plan.slots]
        if not nodes or (node.op_type in LAYERS):
            raise Float16OverflowError(node_label(node), value.name or "", float("inf"), "in float16, on the inputs")
        for each in nodes:
            plan.keep(
                each, reason if each is node else f"{node_label(node)!r}, which reads it, is not finite otherwise"
            )
        return True
    return False


def smallest_headroom(magnitudes: Mapping[ir.Value, Magnitude]) -> Headroom | None:
    """Return the headroom of the value that comes closest to 65504."""
    if not magnitudes:
        return None
    value = max(magnitudes, key=lambda each: magnitudes[each].reached)
    producer = value.producer()
    return Headroom("" if producer is None else node_label(producer), value.name or "", magnitudes[value].reached)


def _overflow(
    value: ir.Value, magnitudes: Mapping[ir.Value, Magnitude], reader: ir.Node | None
) -> Float16OverflowError:
    """Return the error that names the first value of the chain of them that leads to this one."""
    while (before := _overflowing_input(value, magnitudes)) is not None:
        value = before
    each, producer = magnitudes[value], value.producer()
    if producer is not None:
        return Float16OverflowError(node_label(producer), value.name or "", each.reached, each.basis)
    readers = [use.node for use in value.uses()] if reader is None else [reader]
    label = node_label(readers[0]) if readers else ""
    return Float16OverflowError(label, value.name or "", each.reached, each.basis, "reads")


def _overflowing_input(value: ir.Value, magnitudes: Mapping[ir.Value, Magnitude]) -> ir.Value | None:
    producer = value.producer()
    inputs = () if producer is None else producer.inputs
    known = (each for each in inputs if each is not None and each in magnitudes)
    return next((each for each in known if magnitudes[each].reached > MAX_FLOAT16), None)


def _is_bound(use: Use) -> bool:
    """Return whether a value is a bound of a Clip, which may be infinite."""
    return use.node.op_type == "Clip" and use.place > 0


def _finite_magnitude(value: ir.Value) -> float:
    assert value.const_value is not None  # an initializer of a loaded model
    array = np.abs(value.const_value.numpy())
    return float(np.max(array, initial=0.0, where=np.isfinite(array)))


def _expected_magnitudes(plan: Plan, statistics: Mapping[str, ChannelStatistics]) -> dict[ir.Value, float]:
    """Return the largest `|mean| + 8 std` of the values that have statistics, and of what carries them on."""
    expected: dict[ir.Value, float] = {}
    for value in plan.values():
        producer = value.producer()
        if (known := statistics.get(value.name or "")) is not None:
            expected[value] = float(np.max(np.abs(known.mean) + DEVIATIONS * known.std, initial=0.0))
        elif producer is not None and producer.op_type in _CARRYING:
            before = [expected[each] for each in producer.inputs if each in expected]
            if before:
                expected[value] = max(before)
    return expected
