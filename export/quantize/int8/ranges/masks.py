"""Values that hold the numbers of a mask, such as -inf or -1e9 before a Softmax: these must not set a range.

8 bits from -1e9 to 10 leave nothing of the numbers up to 10. So such a value has no range: it stays in float32, and so
do the nodes that make and read it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx_ir as ir

from normfold.export.graph.constants import FLOATS, constant_tensor
from normfold.export.quantize.int8.layers import LAYER_TYPES
from normfold.export.quantize.int8.ranges.channel_ranges import ChannelRange

MIN_MASK = 1e3
"""Magnitude from which on a constant may be a mask's; -1e4 is common."""

MIN_RATIO = 30.0
"""Largest over smallest range of what a node mixes: more leaves fewer than 3 bits to the smaller."""

_MIXING = frozenset({"Add", "Sub", "Sum", "Where", "Max", "Min", "Concat", "Pad", "ScatterND", "ScatterElements"})
"""Operators that may put the numbers of a mask among others."""

_WITHOUT_MASK = frozenset({*LAYER_TYPES, "ConvTranspose", "BatchNormalization"})
"""Operators whose constants are weights."""


def without_masks(graph: ir.Graph, ranges: Mapping[str, ChannelRange]) -> tuple[dict[str, ChannelRange], list[str]]:
    """Return the ranges that are not those of masks, and a sentence for each value where a mask comes in.

    Args:
        graph: prepared.
        ranges: of its values; those without one are not looked at.
    """
    masked: set[ir.Value] = set()
    sentences = []
    constants = _ExtremeConstants(ranges)
    for node in graph:
        passed = any(value in masked for value in node.inputs)
        for value in node.outputs:
            known = ranges.get(value.name or "")
            if known is None:
                continue
            if not is_finite(known):
                reason = "it holds numbers that are not finite"
            elif passed and (_extent(known) >= MIN_MASK or _is_scaled(node)):
                reason = ""
            elif (least := _mixed_with(node, known, ranges, constants)) is not None:
                reason = f"it holds numbers of {_extent(known):.4g} beside some of at most {least:.4g}, as a mask does"
            else:
                continue
            masked.add(value)
            if not passed:
                sentences.append(f"The value {value.name!r} stays in float32: {reason}.")
    names = {value.name for value in masked} | {name for name, known in ranges.items() if not is_finite(known)}
    return {name: each for name, each in ranges.items() if name not in names}, sentences


def is_finite(known: ChannelRange) -> bool:
    """Return whether float32 holds the bounds of a range."""
    return bool(np.max(np.abs(known.bounds)) <= np.finfo(np.float32).max)


def is_infinite_by_a_constant(value: ir.Value) -> bool:
    """Return whether a value may be infinite since a constant is, or since one is among the largest of float32."""
    return _ExtremeConstants({}, 1e30).reach(value)


def _is_scaled(node: ir.Node) -> bool:
    """Return whether a node multiplies or divides all numbers by one constant, as attention does by a root."""
    constants = [tensor for value in node.inputs if (tensor := constant_tensor(value)) is not None]
    return node.op_type in ("Mul", "Div") and any(tensor.size == 1 for tensor in constants)


def _mixed_with(
    node: ir.Node, known: ChannelRange, ranges: Mapping[str, ChannelRange], constants: _ExtremeConstants
) -> float | None:
    """Return the smallest extent of what a node mixes with a mask; None where it mixes nothing with a mask."""
    extent = _extent(known)
    if node.op_type not in _MIXING or extent < MIN_MASK:
        return None
    read = [value for value in node.inputs if value is not None and value.dtype == ir.DataType.FLOAT]
    extents = [each for value in read if (each := _extent_of(value, ranges)) is not None and each > 0]
    least = min(extents, default=extent)
    return least if MIN_RATIO * least <= extent and any(constants.reach(value) for value in read) else None


class _ExtremeConstants:
    """Finds values that constants of a large magnitude reach, but through layers, whose sums are no mask.

    Args:
        ranges: of values; an input of the network may be a mask, too.
        least: the magnitude.
    """

    def __init__(self, ranges: Mapping[str, ChannelRange], least: float = MIN_MASK) -> None:
        self._ranges, self._least = ranges, least
        self._found: dict[ir.Value, bool] = {}

    def reach(self, value: ir.Value) -> bool:
        """Return whether such a constant reaches a value."""
        pending = [value]
        while pending:
            each = pending[-1]
            missing = [] if each in self._found else [one for one in _sources(each) if one not in self._found]
            if missing:
                pending += missing
                continue
            pending.pop()
            if each not in self._found:
                self._found[each] = self._is_extreme(each) or any(self._found[one] for one in _sources(each))
        return self._found[value]

    def _is_extreme(self, value: ir.Value) -> bool:
        node = value.producer()
        if node is not None and node.op_type == "ConstantOfShape":
            given = node.attributes.get("value")
            return given is not None and _max_magnitude(given.as_tensor()) >= self._least
        tensor = constant_tensor(value)
        if tensor is not None:
            return tensor.dtype in FLOATS and _max_magnitude(tensor) >= self._least
        known = self._ranges.get(value.name or "")
        return node is None and known is not None and _extent(known) >= self._least


def _sources(value: ir.Value) -> Iterable[ir.Value]:
    node = value.producer()
    if node is None or node.op_type in _WITHOUT_MASK:
        return ()
    return [each for each in node.inputs if each is not None]


def _extent(known: ChannelRange) -> float:
    return float(np.max(np.abs(known.bounds)))


def _extent_of(value: ir.Value, ranges: Mapping[str, ChannelRange]) -> float | None:
    tensor = constant_tensor(value)
    if tensor is not None:
        return _max_magnitude(tensor)
    known = ranges.get(value.name or "")
    return None if known is None else _extent(known)


def _max_magnitude(tensor: ir.TensorProtocol) -> float:
    return float(np.max(np.abs(tensor.numpy().astype(np.float64)), initial=0))
