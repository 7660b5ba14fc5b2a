"""Operators that gains pass if they are not negative: MaxPool and GlobalMaxPool; Relu and its like.

A maximum commutes with an affine that does not decrease; a rectifier (Relu, LeakyRelu, PRelu, Abs) only with a gain
and no offset, since its slope changes at zero. A gain of zero passes too: both sides are zero then, or the offset.
That takes values to be finite (0 * inf is NaN on one side alone) and the sign of a zero not to matter, as all folds do:
a layer absorbs a gain of zero as weights of zero.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from normfold.export.fold.affine import Affine
from normfold.export.fold.plan import Step
from normfold.export.fold.reason_codes import ReasonCode
from normfold.export.fold.rejection import Rejection, reject_not_per_channel

_MAXIMA = frozenset({"MaxPool", "GlobalMaxPool"})


def fold_backward(node: ir.Node, required: Mapping[int, Affine]) -> Step | Rejection:
    """Pass where no gain is negative; a rectifier, only without an offset."""
    if set(required) != {0}:
        return Rejection(ReasonCode.INDICES, node, "its second output is not a value but indices")
    return _reject(node, required[0]) or Step(backward={0: required[0]})


def fold_forward(node: ir.Node, removed: Mapping[int, Affine]) -> Step | Rejection:
    """Pass likewise."""
    if set(removed) != {0}:
        return Rejection(ReasonCode.WEIGHTS_NOT_CONSTANT, node, "it reads the value as its slope")
    return _reject(node, removed[0]) or Step(forward={0: removed[0]})


def _reject(node: ir.Node, affine: Affine) -> Rejection | None:
    if not np.all(affine.gain >= 0):
        return Rejection(ReasonCode.GAIN_SIGN, node, "a negative gain does not pass it")
    if node.op_type in _MAXIMA:
        if not np.all(affine.gain) and _gives_indices(node):
            detail = "the indices that it gives out would change, as a gain of zero makes all values of a window equal"
            return Rejection(ReasonCode.GAIN_SIGN, node, detail)
        return reject_not_per_channel(node) if affine.varies_along(range(2, affine.rank)) else None
    if np.any(np.where(affine.gain == 0, affine.offset < 0, affine.offset != 0)):
        return Rejection(ReasonCode.NON_LINEAR, node, "its slope changes at zero, and an offset would move that point")
    return None


def _gives_indices(node: ir.Node) -> bool:
    return any(value.uses() or value.is_graph_output() for value in node.outputs[1:])
