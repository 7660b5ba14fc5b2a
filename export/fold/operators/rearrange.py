"""Compress, GatherElements and ReverseSequence: elements along one axis, at places that another input gives.

The affine passes if it does not vary along that axis.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from normfold.export.fold.affine import Affine
from normfold.export.fold.operators.elements import put_back, taken
from normfold.export.fold.plan import Step
from normfold.export.fold.reason_codes import ReasonCode
from normfold.export.fold.rejection import Rejection, reject_unknown_shape
from normfold.export.graph.shapes import static_size


def fold_backward(node: ir.Node, required: Mapping[int, Affine]) -> Step | Rejection:
    """Pass; elements that are not taken get gain 1 and offset 0 (the planner makes sure that they are not read)."""
    affine = required[0]
    if (rejection := _reject(node, affine)) is not None:
        return rejection
    for axis in range(affine.rank):
        sizes = _shortened(node, affine, axis)
        if isinstance(sizes, Rejection):
            return sizes
        if sizes is not None:
            whole = put_back(affine, axis, range(sizes[1]), sizes[0])
            assert whole is not None  # no element is taken twice
            affine = whole
    return Step(backward={0: affine})


def fold_forward(node: ir.Node, removed: Mapping[int, Affine]) -> Step | Rejection:
    """Pass, the arrays with the elements that are taken."""
    if set(removed) != {0}:
        return Rejection(ReasonCode.INDICES, node, "it reads the value as indices")
    affine = removed[0]
    if (rejection := _reject(node, affine)) is not None:
        return rejection
    for axis in range(affine.rank):
        sizes = _shortened(node, affine, axis)
        if isinstance(sizes, Rejection):
            return sizes
        if sizes is not None:
            affine = taken(affine, axis, range(sizes[1]))
    return Step(forward={0: affine})


def _reject(node: ir.Node, affine: Affine) -> Rejection | None:
    if node.op_type == "ReverseSequence":
        axis = node.attributes.get_int("time_axis", 0)
    elif node.op_type == "Compress" and "axis" not in node.attributes:
        return Rejection(ReasonCode.OPERATOR, node, "it flattens the value")
    else:
        axis = node.attributes.get_int("axis", 0)
    if affine.varies_along([axis]):
        return Rejection(ReasonCode.OPERATOR, node, "the affine varies along the axis whose elements it rearranges")
    return None


def _shortened(node: ir.Node, affine: Affine, axis: int) -> tuple[int, int] | Rejection | None:
    """Return the sizes before and after of an axis on which the affine varies, which a GatherElements may shorten."""
    if node.op_type != "GatherElements" or not affine.varies_along([axis]):
        return None
    before, after = static_size(node.inputs[0], axis), static_size(node.outputs[0], axis)
    if before is None or after is None:
        return reject_unknown_shape(node)
    return before, after
