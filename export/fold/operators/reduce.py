"""ReduceMean, ReduceSum, ReduceMax, ReduceMin, ReduceL1 and ReduceL2: one value for all positions along some axes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from normfold.export.fold.affine import Affine
from normfold.export.fold.operators.pool import mean_offset
from normfold.export.fold.plan import Step
from normfold.export.fold.reason_codes import ReasonCode
from normfold.export.fold.rejection import Rejection, reject_unknown_shape
from normfold.export.graph.constants import constant_tensor, not_constant_because
from normfold.export.graph.shapes import rank_of, static_size


def fold_backward(node: ir.Node, required: Mapping[int, Affine]) -> Step | Rejection:
    """Pass: wherever the positions went into one, they share its affine; in a sum of n, each has an nth of the offset.

    A maximum, minimum or norm needs a gain that is not negative, a norm no offset.
    """
    rank = rank_of(node.inputs[0])
    if rank is None:
        return reject_unknown_shape(node)
    axes = _axes(node, rank)
    if isinstance(axes, Rejection):
        return axes
    affine = required[0] if _keeps(node) else required[0].map(lambda array: np.expand_dims(array, tuple(axes)))
    if node.op_type == "ReduceSum" and affine.has_offset:
        count = _count(node, axes)
        if count is None:
            return _reject_unknown_count(node)
        affine = Affine(affine.gain, affine.offset / count)
    return _reject_of_kind(node, affine) or Step(backward={0: affine})


def fold_forward(node: ir.Node, removed: Mapping[int, Affine]) -> Step | Rejection:
    """Pass, if the gain is constant along the reduced axes; a sum of n leaves n times the offset.

    A maximum, minimum or norm needs a gain that is not negative, a norm no offset; a maximum or minimum an offset that
    is constant along the axes too.
    """
    if set(removed) != {0}:
        return Rejection(ReasonCode.INDICES, node, "it reads the value as axes")
    affine = removed[0]
    axes = _axes(node, affine.rank)
    if isinstance(axes, Rejection):
        return axes
    if node.op_type in ("ReduceMean", "ReduceSum"):
        affine = mean_offset(affine, axes)
    if node.op_type == "ReduceSum" and affine.has_offset:
        count = _count(node, axes)
        if count is None:
            return _reject_unknown_count(node)
        affine = Affine(affine.gain, affine.offset * count)
    if affine.varies_along(axes):
        return Rejection(ReasonCode.REDUCED_AXIS, node, "the affine varies along an axis that it reduces")
    kept = affine if _keeps(node) else affine.map(lambda array: np.squeeze(array, tuple(axes)))
    return _reject_of_kind(node, affine) or Step(forward={0: kept})


def _keeps(node: ir.Node) -> bool:
    return bool(node.attributes.get_int("keepdims", 1))


def _axes(node: ir.Node, rank: int) -> Sequence[int] | Rejection:
    """Return the reduced axes: an attribute in older opsets, an input in newer ones; none means all, or no-op."""
    given: Sequence[int] = node.attributes.get_ints("axes", ())
    if len(node.inputs) > 1 and node.inputs[1] is not None:
        tensor = constant_tensor(node.inputs[1])
        if tensor is None:
            return Rejection(
                ReasonCode.COMPUTED_AXES, node, f"which axes it reduces {not_constant_because(node.inputs[1])}"
            )
        given = [int(axis) for axis in tensor.numpy()]
    if not given and not node.attributes.get_int("noop_with_empty_axes", 0):
        given = range(rank)
    return sorted(axis % rank for axis in given)


def _count(node: ir.Node, axes: Sequence[int]) -> int | None:
    """Return how many elements go into one, or None if a size is not known, or zero."""
    sizes = [static_size(node.inputs[0], axis) for axis in axes]
    numbers = [size for size in sizes if size]
    return math.prod(numbers) if len(numbers) == len(sizes) else None


def _reject_unknown_count(node: ir.Node) -> Rejection:
    detail = "the number of elements that it adds up is not known, and the offset depends on it"
    return Rejection(ReasonCode.UNKNOWN_SHAPE, node, detail)


def _reject_of_kind(node: ir.Node, affine: Affine) -> Rejection | None:
    # A gain of zero makes all positions equal, so that it does not matter which is the largest; values are finite.
    if node.op_type in ("ReduceMean", "ReduceSum"):
        return None
    if not np.all(affine.gain >= 0):
        return Rejection(ReasonCode.GAIN_SIGN, node, "a negative gain does not pass it")
    if node.op_type in ("ReduceL1", "ReduceL2") and affine.has_offset:
        return Rejection(ReasonCode.NON_LINEAR, node, "it is a norm, which an offset changes for each value by itself")
    return None
