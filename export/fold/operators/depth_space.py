"""DepthToSpace and SpaceToDepth: channels become positions within a block, or the other way round."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from normfold.export.arrays import Array
from normfold.export.fold.affine import Affine
from normfold.export.fold.plan import Step
from normfold.export.fold.reason_codes import ReasonCode
from normfold.export.fold.rejection import Rejection, reject_not_per_channel, reject_unknown_shape
from normfold.export.graph.shapes import static_size


def fold_backward(node: ir.Node, required: Mapping[int, Affine]) -> Step | Rejection:
    """Pass, the channels permuted; SpaceToDepth only where the positions of a block share gain and offset."""
    affine = _to_deep(node, required[0]) if node.op_type == "DepthToSpace" else _to_wide(node, required[0])
    return affine if isinstance(affine, Rejection) else Step(backward={0: affine})


def fold_forward(node: ir.Node, removed: Mapping[int, Affine]) -> Step | Rejection:
    """Pass, likewise; DepthToSpace only where the positions of a block share gain and offset."""
    affine = _to_wide(node, removed[0]) if node.op_type == "DepthToSpace" else _to_deep(node, removed[0])
    return affine if isinstance(affine, Rejection) else Step(forward={0: affine})


def _origin(node: ir.Node) -> Array | Rejection:
    """Return, for each channel of the deep side, the channel of the wide side that it holds positions of."""
    deep = static_size(node.inputs[0] if node.op_type == "DepthToSpace" else node.outputs[0], 1)
    block = node.attributes.get_int("blocksize") ** 2
    if deep is None:
        return reject_unknown_shape(node)
    if node.op_type == "DepthToSpace" and node.attributes.get_string("mode", "DCR") == "CRD":
        return np.repeat(np.arange(deep // block), block)
    return np.tile(np.arange(deep // block), block)


def _to_deep(node: ir.Node, affine: Affine) -> Affine | Rejection:
    """From the wide side to the deep one: every position gets its channel's affine."""
    origin = _origin(node)
    if isinstance(origin, Rejection):
        return origin
    channels = affine.along(1, int(origin.max()) + 1)
    if channels is None:
        return reject_not_per_channel(node)
    gain, offset = channels
    return Affine.per_channel(gain[origin], offset[origin], affine.rank)


def _to_wide(node: ir.Node, affine: Affine) -> Affine | Rejection:
    """From the deep side to the wide one: the positions of a block must agree."""
    origin = _origin(node)
    if isinstance(origin, Rejection):
        return origin
    channels = affine.along(1, origin.size)
    if channels is None:
        return reject_not_per_channel(node)
    first = np.unique(origin, return_index=True)[1]
    if any(not np.array_equal(vector, vector[first][origin]) for vector in channels):
        return Rejection(
            ReasonCode.BLOCK_NOT_UNIFORM, node, "the channels that it lays side by side differ in their affine"
        )
    gain, offset = channels
    return Affine.per_channel(gain[first], offset[first], affine.rank)
