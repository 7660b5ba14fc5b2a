"""Operators that some gains pass: MaxPool and GlobalMaxPool; Relu, LeakyRelu and PRelu.

A maximum commutes with any increasing affine; a rectifier only with a positive gain, since its bend stands at zero.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from normfold.export.fold.affine import Affine
from normfold.export.fold.layer import not_per_channel
from normfold.export.fold.plan import Step
from normfold.export.fold.rejection import Refusal

_MAXIMA = frozenset({"MaxPool", "GlobalMaxPool"})


def pull(node: ir.Node, wanted: Mapping[int, Affine]) -> Step | Refusal:
    """Pass where the gain is positive; a rectifier, only without an offset."""
    if set(wanted) != {0}:
        return Refusal("indices", "its second output is not a value but indices", node)
    return _refuse(node, wanted[0]) or Step(pulls={0: wanted[0]})


def push(node: ir.Node, missing: Mapping[int, Affine]) -> Step | Refusal:
    """Pass, likewise."""
    if set(missing) != {0}:
        return Refusal("weights-not-constant", "it reads the value as its slope", node)
    return _refuse(node, missing[0]) or Step(pushes={0: missing[0]})


def _refuse(node: ir.Node, affine: Affine) -> Refusal | None:
    if not np.all(affine.gain > 0):
        return Refusal("gain-sign", "a gain that is not positive does not pass it", node)
    if node.op_type in _MAXIMA:
        return not_per_channel(node) if affine.varies_along(range(2, affine.rank)) else None
    if affine.has_offset:
        return Refusal("non-linear", "it bends at zero, and an offset would move the bend", node)
    return None
