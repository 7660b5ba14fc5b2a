"""Tile: the whole value, one copy behind the other along its axes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from normfold.export.arrays import Array
from normfold.export.fold.affine import Affine
from normfold.export.fold.operators.integers import integers
from normfold.export.fold.operators.operands import is_same, with_affines
from normfold.export.fold.plan import Step
from normfold.export.fold.reason_codes import ReasonCode
from normfold.export.fold.rejection import Rejection
from normfold.export.graph.constants import is_constant
from normfold.export.graph.shapes import static_size


def fold_backward(node: ir.Node, required: Mapping[int, Affine]) -> Step | Rejection:
    """Pass, the affine of one copy, if all copies have the same; a constant takes it into its values."""
    repeats = _repeats(node, required[0])
    if isinstance(repeats, Rejection):
        return repeats
    one = required[0].map(lambda array: _first_copy(array, repeats))
    if not is_same(one.map(lambda array: _copies(array, repeats)), required[0]):
        return Rejection(ReasonCode.EXPANDED, node, "the affine differs between the copies that it makes")
    if is_constant(node.inputs[0]):
        edit = with_affines(node, {0: one})
        return edit if isinstance(edit, Rejection) else Step(edit=edit)
    return Step(backward={0: one})


def fold_forward(node: ir.Node, removed: Mapping[int, Affine]) -> Step | Rejection:
    """Pass, the arrays copied as the value is."""
    if set(removed) != {0}:
        return Rejection(ReasonCode.INDICES, node, "it reads the value as its numbers of copies")
    repeats = _repeats(node, removed[0])
    if isinstance(repeats, Rejection):
        return repeats
    return Step(forward={0: removed[0].map(lambda array: _copies(array, repeats))})


def _repeats(node: ir.Node, affine: Affine) -> dict[int, int] | Rejection:
    """Return the number of copies along each axis on which the affine varies; other axes do not matter."""
    numbers = integers(node.inputs[1])
    found: dict[int, int] = {}
    for axis in range(affine.rank):
        if affine.varies_along([axis]):
            before, after = static_size(node.inputs[0], axis), static_size(node.outputs[0], axis)
            number = numbers[axis] if numbers else None
            if number is None and before and after:
                number = after // before
            if number is None or number < 1:
                detail = "the number of copies along an axis on which the affine varies is not known"
                return Rejection(ReasonCode.UNKNOWN_SHAPE, node, detail)
            found[axis] = number
    return found


def _first_copy(array: Array, repeats: Mapping[int, int]) -> Array:
    for axis, number in repeats.items():
        if array.shape[axis] > 1:
            array = np.take(array, range(array.shape[axis] // number), axis)
    return array


def _copies(array: Array, repeats: Mapping[int, int]) -> Array:
    for axis, number in repeats.items():
        if array.shape[axis] > 1:
            array = np.concatenate([array] * number, axis)
    return array
