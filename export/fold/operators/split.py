"""Split: parts of a value along one axis."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from normfold.export.fold.affine import Affine
from normfold.export.fold.operators.concat import join
from normfold.export.fold.plan import Step
from normfold.export.fold.rejection import Rejection, reject_unknown_shape
from normfold.export.graph.shapes import static_sizes


def fold_backward(node: ir.Node, required: Mapping[int, Affine]) -> Step | Rejection:
    """Pass, with gain 1 and offset 0 for the parts that require no affine."""
    axis = node.attributes.get_int("axis", 0)
    sizes = static_sizes(node.outputs, axis)
    if sizes is None:
        return reject_unknown_shape(node)
    rank = next(iter(required.values())).rank
    affines = [required.get(index, Affine.identity(rank)) for index in range(len(node.outputs))]
    gain = join([affine.gain for affine in affines], sizes, axis)
    offset = join([affine.offset for affine in affines], sizes, axis)
    return Step(backward={0: Affine(gain, offset)})


def fold_forward(node: ir.Node, removed: Mapping[int, Affine]) -> Step | Rejection:
    """Pass, each part its own part of the affine."""
    axis = node.attributes.get_int("axis", 0)
    sizes = static_sizes(node.outputs, axis)
    if sizes is None:
        return reject_unknown_shape(node)
    ends = np.cumsum(sizes)
    return Step(
        forward={
            i: removed[0].part(axis, end - size, end) for i, (size, end) in enumerate(zip(sizes, ends, strict=True))
        }
    )
