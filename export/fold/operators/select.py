"""Slice and Gather: some of a value's elements along its axes.

Which ones must be constant only along an axis on which the affine varies.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from normfold.export.arrays import Array
from normfold.export.fold.affine import Affine
from normfold.export.fold.operators.elements import put_back, taken
from normfold.export.fold.operators.integers import Numbers, integers
from normfold.export.fold.plan import Step
from normfold.export.fold.reason_codes import ReasonCode
from normfold.export.fold.rejection import Rejection, reject_unknown_shape
from normfold.export.graph.constants import constant_tensor, not_constant_because
from normfold.export.graph.shapes import rank_of, static_size


@dataclass(frozen=True)
class _Part:
    """What a Slice takes along one axis; None for a number that is not constant."""

    start: int | None
    end: int | None
    step: int | None

    def indices(self, size: int) -> list[int] | None:
        """Return the indices that it takes of so many, in order, or None if they are not constant."""
        if self.start is None or self.end is None or self.step is None:
            return None
        end = None if self.step < 0 and self.end < -(2**30) else self.end
        return list(range(size)[slice(self.start, end, self.step)])


def fold_backward(node: ir.Node, required: Mapping[int, Affine]) -> Step | Rejection:
    """Pass; elements that are not taken get gain 1 and offset 0 (the planner makes sure that they are not read)."""
    affine = _before_gather(node, required[0]) if node.op_type == "Gather" else _before_slice(node, required[0])
    return affine if isinstance(affine, Rejection) else Step(backward={0: affine})


def fold_forward(node: ir.Node, removed: Mapping[int, Affine]) -> Step | Rejection:
    """Pass, the arrays with the elements that are taken."""
    if set(removed) != {0}:
        return Rejection(ReasonCode.INDICES, node, "it reads the value as indices")
    affine = _after_gather(node, removed[0]) if node.op_type == "Gather" else _after_slice(node, removed[0])
    return affine if isinstance(affine, Rejection) else Step(forward={0: affine})


def _before_slice(node: ir.Node, affine: Affine) -> Affine | Rejection:
    chosen = _chosen(node, affine)
    if isinstance(chosen, Rejection):
        return chosen
    for axis, indices in chosen.items():
        whole = put_back(affine, axis, indices, static_size(node.inputs[0], axis) or 0)  # known where indices are
        assert whole is not None  # a Slice takes no element twice
        affine = whole
    return affine


def _after_slice(node: ir.Node, affine: Affine) -> Affine | Rejection:
    chosen = _chosen(node, affine)
    if isinstance(chosen, Rejection):
        return chosen
    for axis, indices in chosen.items():
        affine = taken(affine, axis, indices)
    return affine


def _before_gather(node: ir.Node, affine: Affine) -> Affine | Rejection:
    """Return the affine of the source: the axes of the indices become the one that the node takes from."""
    count = rank_of(node.inputs[1])
    if count is None:
        return reject_unknown_shape(node)
    axis = node.attributes.get_int("axis", 0) % (affine.rank - count + 1)
    places = range(axis, axis + count)
    if not affine.varies_along(places):
        return affine.map(lambda array: array.reshape(*array.shape[:axis], 1, *array.shape[axis + count :]))
    indices, size = _indices(node), static_size(node.inputs[0], axis)
    if indices is None:
        return _reject_not_constant(node)
    if size is None:
        return _reject_unknown_size(node)

    def flat(array: Array) -> Array:
        full = np.broadcast_to(array, (*array.shape[:axis], *indices.shape, *array.shape[axis + count :]))
        return full.reshape(*array.shape[:axis], indices.size, *array.shape[axis + count :])

    whole = put_back(affine.map(flat), axis, (indices.reshape(-1) % size).tolist(), size)
    if whole is None:
        return Rejection(ReasonCode.REPEATED, node, "it takes an element twice, each with an affine of its own")
    return whole


def _after_gather(node: ir.Node, affine: Affine) -> Affine | Rejection:
    """Return the affine of the output: the axes of the indices stand in the place of the one that it takes from."""
    axis = node.attributes.get_int("axis", 0) % affine.rank
    if affine.varies_along([axis]):
        indices, size = _indices(node), static_size(node.inputs[0], axis)
        if indices is None:
            return _reject_not_constant(node)
        if size is None:
            return _reject_unknown_size(node)
        ones = np.zeros_like(indices)
        return affine.map(lambda array: np.take(array, ones if array.shape[axis] == 1 else indices % size, axis))
    count = rank_of(node.inputs[1])
    if count is None:
        return reject_unknown_shape(node)
    return affine.map(lambda array: array.reshape(*array.shape[:axis], *[1] * count, *array.shape[axis + 1 :]))


def _indices(node: ir.Node) -> np.ndarray | None:
    tensor = constant_tensor(node.inputs[1])
    return None if tensor is None else tensor.numpy().astype(np.int64)


def _chosen(node: ir.Node, affine: Affine) -> dict[int, list[int]] | Rejection:
    """Return the indices that a Slice takes, in order, along each axis on which the affine varies."""
    chosen = {}
    for axis, part in _parts(node, affine.rank).items():
        if not affine.varies_along([axis]):
            continue
        size = static_size(node.inputs[0], axis)
        if size is None:
            return _reject_unknown_size(node)
        indices = None if part is None else part.indices(size)
        if indices is None:
            return _reject_not_constant(node)
        chosen[axis] = indices
    return chosen


def _parts(node: ir.Node, rank: int) -> dict[int, _Part | None]:
    """Return the part that a Slice takes along each axis that it names, None where nothing is known of it."""
    given: list[Numbers | None]
    if "starts" in node.attributes:  # until opset 9
        given = [*(node.attributes.get_ints(name, ()) for name in ("starts", "ends", "axes")), ()]
    else:
        given = [integers(node.inputs[index] if index < len(node.inputs) else None) for index in (1, 2, 3, 4)]
    starts, ends, axes, steps = given
    if starts is None or ends is None or axes is None or steps is None or None in axes:
        return dict.fromkeys(range(rank))
    named = [axis % rank for axis in axes or range(len(starts)) if axis is not None]
    parts = zip(named, starts, ends, steps or [1] * len(starts), strict=True)
    return {axis: _Part(start, end, step) for axis, start, end, step in parts}


def _reject_not_constant(node: ir.Node) -> Rejection:
    value = next((value for value in node.inputs[1:] if value is not None and constant_tensor(value) is None), None)
    detail = f"what it takes along an axis on which the affine varies {not_constant_because(value)}"
    return Rejection(ReasonCode.COMPUTED_INDICES, node, detail)


def _reject_unknown_size(node: ir.Node) -> Rejection:
    return Rejection(ReasonCode.UNKNOWN_SHAPE, node, "the size of the axis that it takes from is not known")
