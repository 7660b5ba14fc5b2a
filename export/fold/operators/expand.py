"""Expand: the same value along more, or larger, axes."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from normfold.export.fold.affine import Affine
from normfold.export.fold.operators.operands import affine_of_operand, affine_of_result, with_affines
from normfold.export.fold.plan import Step
from normfold.export.fold.reason_codes import ReasonCode
from normfold.export.fold.rejection import Rejection, reject_unknown_shape
from normfold.export.graph.constants import is_constant
from normfold.export.graph.shapes import rank_of


def fold_backward(node: ir.Node, required: Mapping[int, Affine]) -> Step | Rejection:
    """Pass, if the affine is constant along the axes that are new or enlarged; a constant takes it into its values."""
    affine, rank = required[0], rank_of(node.inputs[0])
    if is_constant(node.inputs[0]):
        edit = with_affines(node, {0: affine})
        return edit if isinstance(edit, Rejection) else Step(edit=edit)
    if rank is None or rank > affine.rank:
        return reject_unknown_shape(node)
    own = affine_of_operand(affine, node.inputs[0])
    if own is None:
        detail = "the affine varies along an axis that it enlarges, or whose size before it is not known"
        return Rejection(ReasonCode.EXPANDED, node, detail)
    return Step(backward={0: own})


def fold_forward(node: ir.Node, removed: Mapping[int, Affine]) -> Step | Rejection:
    """Pass, the arrays with an axis of size 1 for each new one."""
    rank = rank_of(node.outputs[0])
    if set(removed) != {0} or rank is None:
        return reject_unknown_shape(node)
    return Step(forward={0: affine_of_result(removed[0], rank)})
