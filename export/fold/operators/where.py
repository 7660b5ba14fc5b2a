"""Where, Max and Min: each element of the output is that element of one of the branches.

A choice commutes with an affine that all branches have. Max and Min choose by the values: a positive gain keeps the
order, and after a gain of zero all candidates are equal, so it does not matter which one is chosen. (Values are taken
to be finite, as everywhere in a fold: a weight of zero in a layer makes zero of every finite value too.)
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from normfold.export.fold.affine import Affine
from normfold.export.fold.operators.operands import (
    affine_of_operand,
    affine_of_result,
    is_same,
    with_affines,
    without_affines,
)
from normfold.export.fold.plan import Step
from normfold.export.fold.reason_codes import ReasonCode
from normfold.export.fold.rejection import Rejection, reject_overridable, reject_unknown_shape
from normfold.export.graph.constants import is_constant
from normfold.export.graph.shapes import rank_of


def fold_backward(node: ir.Node, required: Mapping[int, Affine]) -> Step | Rejection:
    """Pass to all branches; a constant one takes the affine into its values: c' = g * c + h."""
    affine = required[0]
    if (rejection := _reject_sign(node, affine)) is not None:
        return rejection
    backward: dict[int, Affine] = {}
    constants: dict[int, Affine] = {}
    for index in _branches(node):
        own = affine_of_operand(affine, node.inputs[index])
        if is_constant(node.inputs[index]):
            constants[index] = affine
        elif own is not None:
            backward[index] = own
        else:
            detail = "its branches differ in shape, or their shapes are unknown"
            return reject_overridable(node, index) or Rejection(ReasonCode.TWO_BRANCHES, node, detail)
    edit = with_affines(node, constants)
    return edit if isinstance(edit, Rejection) else Step(backward=backward, edit=edit)


def fold_forward(node: ir.Node, removed: Mapping[int, Affine]) -> Step | Rejection:
    """Pass an affine that all branches arrive without; a constant one does without it too: c' = (c - h) / g."""
    rank = rank_of(node.outputs[0])
    if rank is None:
        return reject_unknown_shape(node)
    affines = {index: affine_of_result(affine, rank) for index, affine in removed.items()}
    affine = next(iter(affines.values()))
    if (rejection := _reject_sign(node, affine)) is not None:
        return rejection
    constants: dict[int, Affine] = {}
    for index in _branches(node):
        if index not in affines and is_constant(node.inputs[index]):
            constants[index] = affine
        elif not is_same(affine, affines.get(index, Affine.identity(rank))):
            detail = "its branches would arrive with different affines"
            return reject_overridable(node, index) or Rejection(ReasonCode.UNEQUAL_GAINS, node, detail)
    edit = without_affines(node, constants)
    return edit if isinstance(edit, Rejection) else Step(forward={0: affine}, edit=edit)


def _branches(node: ir.Node) -> range:
    """Return the inputs that are branches: all but Where's condition."""
    return range(1 if node.op_type == "Where" else 0, len(node.inputs))


def _reject_sign(node: ir.Node, affine: Affine) -> Rejection | None:
    if node.op_type != "Where" and not np.all(affine.gain >= 0):
        return Rejection(ReasonCode.GAIN_SIGN, node, "a negative gain reverses the order that it chooses by")
    return None
