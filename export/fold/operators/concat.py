"""Concat: values side by side along one axis."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from normfold.export.arrays import Array, constant_axes_dropped
from normfold.export.fold.affine import Affine
from normfold.export.fold.operators.operands import is_same, with_affines, without_affines
from normfold.export.fold.plan import Step
from normfold.export.fold.rejection import Rejection, reject_unknown_shape
from normfold.export.graph.constants import is_constant
from normfold.export.graph.shapes import static_sizes


def fold_backward(node: ir.Node, required: Mapping[int, Affine]) -> Step | Rejection:
    """Pass, each input its own part of the affine; a constant takes its part into its values."""
    affine, axis = required[0], node.attributes.get_int("axis")
    parts = [affine] * len(node.inputs)
    if affine.varies_along([axis]):
        sizes = static_sizes(node.inputs, axis)
        if sizes is None:
            return reject_unknown_shape(node)
        ends = np.cumsum(sizes)
        parts = [affine.part(axis, end - size, end) for size, end in zip(sizes, ends, strict=True)]
    constants = _constants(node)
    edit = with_affines(node, {index: parts[index] for index in constants})
    if isinstance(edit, Rejection):
        return edit
    return Step(backward={i: part for i, part in enumerate(parts) if i not in constants}, edit=edit)


def fold_forward(node: ir.Node, removed: Mapping[int, Affine]) -> Step | Rejection:
    """Pass, the parts joined; an input without a removed affine has gain 1 and offset 0.

    Where all inputs but constants arrive without the same affine, the constants do without it too.
    """
    axis, affine = node.attributes.get_int("axis"), next(iter(removed.values()))
    if (step := _forward_same(node, removed, affine, axis)) is not None:
        return step
    sizes = static_sizes(node.inputs, axis)
    if sizes is None:
        return reject_unknown_shape(node)
    affines = [removed.get(index, Affine.identity(affine.rank)) for index in range(len(node.inputs))]
    gain = join([affine.gain for affine in affines], sizes, axis)
    offset = join([affine.offset for affine in affines], sizes, axis)
    return Step(forward={0: Affine(gain, offset)})


def _forward_same(node: ir.Node, removed: Mapping[int, Affine], affine: Affine, axis: int) -> Step | None:
    """Return the step for one affine that is the same along the axis, None where it is not or a constant keeps it."""
    if any(one.varies_along([axis]) or not is_same(one, affine) for one in removed.values()):
        return None
    constants = _constants(node)
    if len(removed) + len(constants) < len(node.inputs):
        return None
    edit = without_affines(node, dict.fromkeys(constants, affine))
    return None if isinstance(edit, Rejection) else Step(forward={0: affine}, edit=edit)


def _constants(node: ir.Node) -> list[int]:
    return [index for index, value in enumerate(node.inputs) if is_constant(value)]


def join(arrays: list[Array], sizes: list[int], axis: int) -> Array:
    """Join arrays along an axis, each as long as its size there, the others broadcast; size 1 where it is constant."""
    full = np.broadcast_shapes(*(np.take(array, [0], axis).shape for array in arrays))
    parts = []
    for array, size in zip(arrays, sizes, strict=True):
        shape = list(full)
        shape[axis] = size
        parts.append(np.broadcast_to(array, shape))
    return constant_axes_dropped(np.concatenate(parts, axis))
