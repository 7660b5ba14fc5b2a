"""Slice and Gather with constant indices: some of a value's elements along its axes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from normfold.export.arrays import Array
from normfold.export.fold.affine import Affine
from normfold.export.fold.plan import Step
from normfold.export.fold.reason_codes import ReasonCode
from normfold.export.fold.rejection import Rejection
from normfold.export.graph.constants import constant_tensor
from normfold.export.graph.shapes import static_size

Chosen = dict[int, list[int]]
"""Axis to the indices that are taken along it, in order."""


def fold_backward(node: ir.Node, required: Mapping[int, Affine]) -> Step | Rejection:
    """Pass; elements that are not taken get gain 1 and offset 0 (the planner makes sure that they are not read)."""
    chosen = _chosen(node, required[0])
    if isinstance(chosen, Rejection):
        return chosen
    affine = required[0]
    for axis, indices in chosen.items():
        if affine.varies_along([axis]):
            if len(set(indices)) != len(indices):
                return Rejection(ReasonCode.REPEATED, node, "it takes an element twice, each with an affine of its own")
            size = static_size(node.inputs[0], axis) or 0  # known where indices are
            affine = Affine(
                _put(affine.gain, axis, indices, size, filling=1.0),
                _put(affine.offset, axis, indices, size, filling=0.0),
            )
    return Step(backward={0: affine})


def fold_forward(node: ir.Node, removed: Mapping[int, Affine]) -> Step | Rejection:
    """Pass, the arrays with the elements that are taken."""
    if set(removed) != {0}:
        return Rejection(ReasonCode.INDICES, node, "it reads the value as indices")
    chosen = _chosen(node, removed[0])
    if isinstance(chosen, Rejection):
        return chosen
    affine = removed[0]
    for axis, indices in chosen.items():
        affine = Affine(_take(affine.gain, axis, indices), _take(affine.offset, axis, indices))
    return Step(forward={0: affine})


def _take(array: Array, axis: int, indices: list[int]) -> Array:
    return array if array.shape[axis] == 1 else np.take(array, indices, axis)


def _put(array: Array, axis: int, indices: list[int], size: int, filling: float) -> Array:
    shape = list(array.shape)
    if shape[axis] == 1:
        shape[axis] = len(indices)
        array = np.broadcast_to(array, shape)
    shape[axis] = size
    result = np.full(shape, filling)
    np.moveaxis(result, axis, 0)[indices] = np.moveaxis(array, axis, 0)
    return result


def _chosen(node: ir.Node, affine: Affine) -> Chosen | Rejection:
    """Return the indices taken along each axis on which the affine varies; other axes do not matter."""
    found = _gathered(node) if node.op_type == "Gather" else _sliced(node)
    if found is None:
        return Rejection(ReasonCode.COMPUTED_INDICES, node, "what it takes is computed, not constant")
    chosen = {}
    for axis, indices in found.items():
        size = static_size(node.inputs[0], axis)
        if affine.varies_along([axis]):
            if size is None:
                return Rejection(ReasonCode.UNKNOWN_SHAPE, node, "the size of the axis that it takes from is not known")
            chosen[axis] = list(range(size)[indices]) if isinstance(indices, slice) else [i % size for i in indices]
    return chosen


def _gathered(node: ir.Node) -> dict[int, list[int] | slice] | None:
    indices = constant_tensor(node.inputs[1])
    if indices is None or len(indices.shape) != 1:  # a scalar drops the axis, a matrix adds one
        return None
    return {node.attributes.get_int("axis", 0): [int(index) for index in indices.numpy()]}


def _sliced(node: ir.Node) -> dict[int, list[int] | slice] | None:
    given = _slice_attributes(node) if "starts" in node.attributes else _slice_inputs(node)
    if given is None:
        return None
    starts, ends, axes, steps = given
    return {
        axis: slice(start, None if step < 0 and end < -(2**30) else end, step)
        for axis, start, end, step in zip(
            axes or range(len(starts)), starts, ends, steps or [1] * len(starts), strict=True
        )
    }


def _slice_attributes(node: ir.Node) -> list[list[int]]:
    """Return starts, ends, axes and steps as opsets until 9 give them; empty where left out."""
    names = ("starts", "ends", "axes")
    return [*([*node.attributes.get_ints(name, ())] for name in names), []]


def _slice_inputs(node: ir.Node) -> list[list[int]] | None:
    """Return starts, ends, axes and steps as opsets from 10 give them; empty where left out, None where computed."""
    found: list[list[int]] = [[], [], [], []]
    for index, value in enumerate(node.inputs[1:]):
        if value is not None:
            tensor = constant_tensor(value)
            if tensor is None:
                return None
            found[index] = [int(number) for number in tensor.numpy()]
    return found
