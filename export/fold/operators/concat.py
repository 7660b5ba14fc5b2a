"""Concat: values side by side along one axis."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from normfold.export.arrays import Array, constant_axes_dropped
from normfold.export.fold.affine import Affine
from normfold.export.fold.plan import Step
from normfold.export.fold.rejection import Rejection, reject_unknown_shape
from normfold.export.graph.shapes import static_sizes


def fold_backward(node: ir.Node, required: Mapping[int, Affine]) -> Step | Rejection:
    """Pass, each input its own part of the affine."""
    affine, axis = required[0], node.attributes.get_int("axis")
    if not affine.varies_along([axis]):
        return Step(backward=dict.fromkeys(range(len(node.inputs)), affine))
    sizes = static_sizes(node.inputs, axis)
    if sizes is None:
        return reject_unknown_shape(node)
    ends = np.cumsum(sizes)
    return Step(
        backward={i: affine.part(axis, end - size, end) for i, (size, end) in enumerate(zip(sizes, ends, strict=True))}
    )


def fold_forward(node: ir.Node, removed: Mapping[int, Affine]) -> Step | Rejection:
    """Pass, the parts joined; an input without a removed affine has gain 1 and offset 0."""
    axis, rank = node.attributes.get_int("axis"), next(iter(removed.values())).rank
    sizes = static_sizes(node.inputs, axis)
    if sizes is None:
        return reject_unknown_shape(node)
    affines = [removed.get(index, Affine.identity(rank)) for index in range(len(node.inputs))]
    gain = join([affine.gain for affine in affines], sizes, axis)
    offset = join([affine.offset for affine in affines], sizes, axis)
    return Step(forward={0: Affine(gain, offset)})


def join(arrays: list[Array], sizes: list[int], axis: int) -> Array:
    """Join arrays along an axis, each as long as its size there, the others broadcast; size 1 where it is constant."""
    full = np.broadcast_shapes(*(np.take(array, [0], axis).shape for array in arrays))
    parts = []
    for array, size in zip(arrays, sizes, strict=True):
        shape = list(full)
        shape[axis] = size
        parts.append(np.broadcast_to(array, shape))
    return constant_axes_dropped(np.concatenate(parts, axis))
