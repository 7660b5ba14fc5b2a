"""Split: parts of a value along one axis."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from normfold.export.fold.affine import Affine
from normfold.export.fold.operators.concat import join
from normfold.export.fold.operators.operands import is_same
from normfold.export.fold.plan import Step
from normfold.export.fold.reason_codes import ReasonCode
from normfold.export.fold.rejection import Rejection, reject_unknown_shape
from normfold.export.graph.shapes import static_sizes


def fold_backward(node: ir.Node, required: Mapping[int, Affine]) -> Step | Rejection:
    """Pass, with gain 1 and offset 0 for the parts that require no affine."""
    axis, first = node.attributes.get_int("axis", 0), next(iter(required.values()))
    if len(required) == len(node.outputs) and _is_one_for_all(list(required.values()), axis):
        return Step(backward={0: first})
    sizes = static_sizes(node.outputs, axis)
    if sizes is None:
        return reject_unknown_shape(node)
    affines = [required.get(index, Affine.identity(first.rank)) for index in range(len(node.outputs))]
    gain = join([affine.gain for affine in affines], sizes, axis)
    offset = join([affine.offset for affine in affines], sizes, axis)
    return Step(backward={0: Affine(gain, offset)})


def fold_forward(node: ir.Node, removed: Mapping[int, Affine]) -> Step | Rejection:
    """Pass, each part its own part of the affine."""
    if set(removed) != {0}:
        return Rejection(ReasonCode.INDICES, node, "it reads the value as the sizes of its parts")
    axis = node.attributes.get_int("axis", 0)
    if _is_one_for_all([removed[0]], axis):
        return Step(forward=dict.fromkeys(range(len(node.outputs)), removed[0]))
    sizes = static_sizes(node.outputs, axis)
    if sizes is None:
        return reject_unknown_shape(node)
    ends = np.cumsum(sizes)
    return Step(
        forward={
            i: removed[0].part(axis, end - size, end) for i, (size, end) in enumerate(zip(sizes, ends, strict=True))
        }
    )


def _is_one_for_all(affines: list[Affine], axis: int) -> bool:
    """Return whether all parts have one affine, whatever their sizes are."""
    return all(not affine.varies_along([axis]) and is_same(affine, affines[0]) for affine in affines)
