"""Reshape, Flatten, Squeeze and Unsqueeze: the same elements in the same order, under other axes.

What they make of an affine follows from the shapes alone, however the target shape was computed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from normfold.export.arrays import Array, constant_axes_dropped
from normfold.export.fold.affine import Affine
from normfold.export.fold.plan import Step
from normfold.export.fold.reason_codes import ReasonCode
from normfold.export.fold.rejection import Rejection, reject_unknown_shape
from normfold.export.graph.shapes import Sizes, sizes_of


def fold_backward(node: ir.Node, required: Mapping[int, Affine]) -> Step | Rejection:
    """Pass, the arrays shaped as the input is."""
    affine = _carry(node, required[0], sizes_of(node.outputs[0]), sizes_of(node.inputs[0]))
    return affine if isinstance(affine, Rejection) else Step(backward={0: affine})


def fold_forward(node: ir.Node, removed: Mapping[int, Affine]) -> Step | Rejection:
    """Pass, the arrays shaped as the output is."""
    affine = _carry(node, removed[0], sizes_of(node.inputs[0]), sizes_of(node.outputs[0]))
    return affine if isinstance(affine, Rejection) else Step(forward={0: affine})


def _carry(node: ir.Node, affine: Affine, before: Sizes | None, after: Sizes | None) -> Affine | Rejection:
    if before is None or after is None or len(before) != affine.rank:
        return reject_unknown_shape(node)
    gain, offset = (_reshaped(array, before, after) for array in (affine.gain, affine.offset))
    if gain is None or offset is None:
        return Rejection(ReasonCode.MIXED_AXES, node, "it mixes the channels with an axis of unknown size")
    return Affine(gain, offset)


def _reshaped(array: Array, before: Sizes, after: Sizes) -> Array | None:
    """Carry an array that broadcasts against a value through a Reshape of that value.

    Axes fall into groups, as small as can be, that hold the same elements before and after: matched from the front and
    from the back while sizes are equal, and by products between. Where the array is constant along a group it stays so;
    where it varies, the sizes of the group must be known.

    Args:
        array: of rank len(before), size 1 where constant.
        before: sizes of the value.
        after: sizes of the reshaped value.

    Returns:
        The array for the reshaped value, or None if the channel mixes with an axis of unknown size.
    """
    full: list[int] = []
    target: list[int] = []
    for old, new in _groups(before, after):
        if all(array.shape[axis] == 1 for axis in old):
            full += [1] * len(old)
            target += [1] * len(new)
            continue
        sizes = [before[axis] for axis in old], [after[axis] for axis in new]
        numbers = [[size for size in side if isinstance(size, int)] for side in sizes]
        if (len(numbers[0]), len(numbers[1])) != (len(old), len(new)) or math.prod(numbers[0]) != math.prod(numbers[1]):
            return None
        full += numbers[0]
        target += numbers[1]
    return constant_axes_dropped(np.broadcast_to(array, full).reshape(target))


def _groups(before: Sizes, after: Sizes) -> list[tuple[list[int], list[int]]]:
    """Return groups of axes that hold the same elements before and after, in order."""
    old, new = list(range(len(before))), list(range(len(after)))
    first = []
    while (group := _peel(before, after, old, new, end=0)) is not None:
        first.append(group)
    last = []
    while (group := _peel(before, after, old, new, end=-1)) is not None:
        last.append(group)
    return [*first, (old, new), *reversed(last)]


def _peel(before: Sizes, after: Sizes, old: list[int], new: list[int], end: int) -> tuple[list[int], list[int]] | None:
    """Take the smallest group off one end of both lists of axes; None if there is none that surely matches."""
    taken: tuple[list[int], list[int]] = ([], [])
    products = [1, 1]
    left = [list(old), list(new)]
    while not taken[0] or not taken[1] or products[0] != products[1]:
        side = 0 if not taken[0] or (taken[1] and products[0] < products[1]) else 1
        if not left[side]:
            return None
        axis = left[side].pop(end)
        size = (before, after)[side][axis]
        taken[side].insert(0 if end else len(taken[side]), axis)
        if isinstance(size, int):
            products[side] *= size
        elif size is not None and side == 0 and len(taken[0]) == 1 and left[1] and after[left[1][end]] == size:
            return _take(old, new, ([axis], [left[1][end]]))  # the same name on both sides
        else:
            return None
    return _take(old, new, taken)


def _take(old: list[int], new: list[int], taken: tuple[list[int], list[int]]) -> tuple[list[int], list[int]]:
    for axes, gone in zip((old, new), taken, strict=True):
        axes[:] = [axis for axis in axes if axis not in gone]
    return taken
