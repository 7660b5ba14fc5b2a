"""Add of a constant that broadcasts into the other operand: y = x + c."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from export.affine import Affine, Array
from export.constants import Derived, constant_dtype, constant_shape, exact, is_constant
from export.plan import Rewrite, Step
from export.refusal import Refusal, node_label

# Below this gain, relative to the largest, (c + h) / g would grow out of all proportion to what it is added to.
_SMALLEST_RELATIVE_GAIN = 1e-4


def pull(node: ir.Node, wanted: Mapping[int, Affine]) -> Step | Refusal:
    """Absorb the offset, and ask x for the gain: g * (x + c) + h = (g * x) + (g * c + h)."""
    index = constant_index(node)
    if isinstance(index, Refusal):
        return index
    constant, affine = exact(node.inputs[index])(), wanted[0]
    rewrite = _with_constant(node, index, affine.gain * constant + affine.offset)
    if np.all(affine.gain == 1):
        return Step(rewrite=rewrite)
    return Step(pulls={1 - index: affine.without_offset()}, rewrite=rewrite)


def push(node: ir.Node, missing: Mapping[int, Affine]) -> Step | Refusal:
    """Absorb the offset, and leave the gain to the readers: g * x + h + c = g * (x + (c + h) / g).

    Where a gain is too small to divide by, the constant stays and the readers get the offset too:
    g * x + h + c = g * (x + c) + (h + c - g * c).
    """
    index = constant_index(node)
    if isinstance(index, Refusal):
        return index
    constant, affine = exact(node.inputs[index])(), missing[1 - index]
    sizes = np.abs(affine.gain)
    if sizes.min() < _SMALLEST_RELATIVE_GAIN * sizes.max():
        offset = affine.offset + constant - affine.gain * constant
        return Step(pushes={0: Affine(affine.gain, offset)})
    rewrite = _with_constant(node, index, (constant + affine.offset) / affine.gain)
    if np.all(affine.gain == 1):
        return Step(rewrite=rewrite)
    return Step(pushes={0: affine.without_offset()}, rewrite=rewrite)


def constant_index(node: ir.Node) -> int | Refusal:
    """Return which operand is the constant, or why the Add cannot take up an affine."""
    for index in (1, 0):
        if is_constant(node.inputs[index]):
            other = node.inputs[1 - index]
            if other is not None and _broadcasts_into(constant_shape(node.inputs[index]), other.shape):
                return index
            return Refusal("broadcast", "its constant enlarges the other operand, or that one's shape is unknown", node)
    return Refusal("two-branches", "neither operand is a constant that may be replaced", node)


def _broadcasts_into(constant: tuple[int, ...], shape: ir.Shape | None) -> bool:
    if shape is None or len(constant) > len(shape):
        return False
    return all(size in (1, other) for size, other in zip(reversed(constant), reversed(list(shape)), strict=False))


def _with_constant(node: ir.Node, index: int, values: Array) -> Rewrite:
    value = node.inputs[index]
    assert value is not None  # a constant
    name = value.name or f"{node_label(node)}.bias"
    return Rewrite(node, {index: Derived(name, values.shape, constant_dtype(value), lambda: values)})
