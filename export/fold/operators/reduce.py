"""ReduceMean and ReduceMax: one value for all positions along some axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from normfold.export.fold.affine import Affine
from normfold.export.fold.operators.pool import mean_offset
from normfold.export.fold.plan import Step
from normfold.export.fold.reason_codes import ReasonCode
from normfold.export.fold.rejection import Rejection, reject_unknown_shape
from normfold.export.graph.constants import constant_tensor
from normfold.export.graph.shapes import rank_of


def fold_backward(node: ir.Node, required: Mapping[int, Affine]) -> Step | Rejection:
    """Pass: wherever the positions went into one, they share its affine. A maximum needs a positive gain."""
    rank = rank_of(node.inputs[0])
    if rank is None:
        return reject_unknown_shape(node)
    axes = _axes(node, rank)
    if isinstance(axes, Rejection):
        return axes
    affine = required[0] if _keeps(node) else required[0].map(lambda array: np.expand_dims(array, tuple(axes)))
    return _not_positive(node, affine) or Step(backward={0: affine})


def fold_forward(node: ir.Node, removed: Mapping[int, Affine]) -> Step | Rejection:
    """Pass, if the gain is constant along the reduced axes, and for a maximum positive, the offset constant too."""
    if set(removed) != {0}:
        return Rejection(ReasonCode.INDICES, node, "it reads the value as axes")
    affine = removed[0]
    axes = _axes(node, affine.rank)
    if isinstance(axes, Rejection):
        return axes
    if node.op_type == "ReduceMean":
        affine = mean_offset(affine, axes)
    if affine.varies_along(axes):
        return Rejection(ReasonCode.REDUCED_AXIS, node, "the affine varies along an axis that it reduces")
    kept = affine if _keeps(node) else affine.map(lambda array: np.squeeze(array, tuple(axes)))
    return _not_positive(node, affine) or Step(forward={0: kept})


def _keeps(node: ir.Node) -> bool:
    return bool(node.attributes.get_int("keepdims", 1))


def _axes(node: ir.Node, rank: int) -> Sequence[int] | Rejection:
    """Return the reduced axes: an attribute in older opsets, an input in newer ones; none means all, or no-op."""
    given: Sequence[int] = node.attributes.get_ints("axes", ())
    if len(node.inputs) > 1 and node.inputs[1] is not None:
        tensor = constant_tensor(node.inputs[1])
        if tensor is None:
            return Rejection(ReasonCode.COMPUTED_AXES, node, "its axes are computed, not constant")
        given = [int(axis) for axis in tensor.numpy()]
    if not given and not node.attributes.get_int("noop_with_empty_axes", 0):
        given = range(rank)
    return sorted(axis % rank for axis in given)


def _not_positive(node: ir.Node, affine: Affine) -> Rejection | None:
    if node.op_type == "ReduceMax" and not np.all(affine.gain > 0):
        return Rejection(
            ReasonCode.GAIN_SIGN, node, "a gain that is not positive turns its maximum into something else"
        )
    return None
