"""Expand: the same value along more, or larger, axes."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from normfold.export.fold.affine import Affine
from normfold.export.fold.plan import Step
from normfold.export.fold.reason_codes import ReasonCode
from normfold.export.fold.rejection import Rejection, reject_unknown_shape
from normfold.export.graph.shapes import rank_of


def fold_backward(node: ir.Node, required: Mapping[int, Affine]) -> Step | Rejection:
    """Pass, if the affine is constant along the axes that are new or enlarged."""
    rank = rank_of(node.inputs[0])
    if rank is None or rank > required[0].rank:
        return reject_unknown_shape(node)
    new = required[0].rank - rank
    if not required[0].varies_along(range(new)):
        affine = required[0].map(lambda array: array.reshape(array.shape[new:]))
        if affine.fits(node.inputs[0]):
            return Step(backward={0: affine})
    return Rejection(ReasonCode.EXPANDED, node, "the affine varies along an axis that it enlarges")


def fold_forward(node: ir.Node, removed: Mapping[int, Affine]) -> Step | Rejection:
    """Pass, the arrays with an axis of size 1 for each new one."""
    rank = rank_of(node.outputs[0])
    if set(removed) != {0} or rank is None:
        return reject_unknown_shape(node)
    new = (1,) * (rank - removed[0].rank)
    return Step(forward={0: removed[0].map(lambda array: array.reshape(*new, *array.shape))})
