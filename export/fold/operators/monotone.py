"""Operators that some gains pass: MaxPool and GlobalMaxPool; Relu, LeakyRelu and PRelu.

A maximum commutes with any increasing affine; a rectifier only with a positive gain and no offset, since its slope
changes at zero.
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
    """Pass where the gain is positive; a rectifier, only without an offset."""
    if set(required) != {0}:
        return Rejection(ReasonCode.INDICES, node, "its second output is not a value but indices")
    return _reject(node, required[0]) or Step(backward={0: required[0]})


def fold_forward(node: ir.Node, removed: Mapping[int, Affine]) -> Step | Rejection:
    """Pass where the gain is positive; a rectifier, only without an offset."""
    if set(removed) != {0}:
        return Rejection(ReasonCode.WEIGHTS_NOT_CONSTANT, node, "it reads the value as its slope")
    return _reject(node, removed[0]) or Step(forward={0: removed[0]})


def _reject(node: ir.Node, affine: Affine) -> Rejection | None:
    if not np.all(affine.gain > 0):
        return Rejection(ReasonCode.GAIN_SIGN, node, "a gain that is not positive does not pass it")
    if node.op_type in _MAXIMA:
        return reject_not_per_channel(node) if affine.varies_along(range(2, affine.rank)) else None
    if affine.has_offset:
        return Rejection(ReasonCode.NON_LINEAR, node, "its slope changes at zero, and an offset would move that point")
    return None
