"""Clip: no value below one bound, none above another, the same two for all channels."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir

from normfold.export.arrays import Array
from normfold.export.fold.affine import Affine
from normfold.export.fold.edits import Rewrite, replacement
from normfold.export.fold.operators.operands import is_too_small
from normfold.export.fold.plan import Step
from normfold.export.fold.reason_codes import ReasonCode
from normfold.export.fold.rejection import Rejection
from normfold.export.graph.constants import DerivedConstant, float64_reader, is_constant, not_constant_because

_BOUNDS = {"min": 1, "max": 2}
"""Attribute until opset 10 and input from opset 11."""

_NO_BOUND = float(np.finfo(np.float32).max)
"""What exporters write for a bound that is not there."""


def fold_backward(node: ir.Node, required: Mapping[int, Affine]) -> Step | Rejection:
    """Pass where no gain is negative; a bound b becomes g * b + h, if that is the same for all channels."""
    affine = required[0]
    edit = _edit(node, affine, lambda bound: affine.gain * bound + affine.offset)
    return edit if isinstance(edit, Rejection) else Step(backward={0: affine}, edit=edit)


def fold_forward(node: ir.Node, removed: Mapping[int, Affine]) -> Step | Rejection:
    """Pass where all gains are positive; a bound b becomes (b - h) / g, if that is the same for all channels."""
    if set(removed) != {0}:
        return Rejection(ReasonCode.WEIGHTS_NOT_CONSTANT, node, "it reads the value as a bound")
    affine = removed[0]
    if is_too_small(affine.gain):
        return Rejection(ReasonCode.ZERO_GAIN, node, "its bounds would be divided by a gain of zero, or close to it")
    edit = _edit(node, affine, lambda bound: (bound - affine.offset) / affine.gain)
    return edit if isinstance(edit, Rejection) else Step(forward={0: affine}, edit=edit)


def _edit(node: ir.Node, affine: Affine, new_bound: Callable[[float], Array]) -> Rewrite | Rejection | None:
    """Return the edit of the bounds, None where they stay as they are, or why the affine does not pass."""
    if not np.all(affine.gain >= 0):
        return Rejection(ReasonCode.GAIN_SIGN, node, "a negative gain would exchange its bounds")
    constants: dict[int, DerivedConstant] = {}
    attributes: dict[str, float] = {}
    for name, index in _BOUNDS.items():
        value = node.inputs[index] if index < len(node.inputs) else None
        if value is not None and not is_constant(value):
            return Rejection(ReasonCode.WEIGHTS_NOT_CONSTANT, node, f"its {name} {not_constant_because(value)}")
        old = (
            node.attributes.get_float(name, np.inf) if value is None else float(float64_reader(value)().reshape(-1)[0])
        )
        if abs(old) >= _NO_BOUND:
            continue
        new = new_bound(old)
        if not np.all(new == new.flat[0]):
            detail = "it clips all channels at one value, and each would need its own"
            return Rejection(ReasonCode.NON_LINEAR, node, detail)
        if new.flat[0] == old:
            continue
        if value is None:
            attributes[name] = float(new.flat[0])
        else:
            constants[index] = replacement(node, index, name, _returning(new.flat[0]), ())
    return Rewrite(node, constants, attributes=attributes) if constants or attributes else None


def _returning(number: np.float64) -> Callable[[], Array]:
    return lambda: np.full((), number)
