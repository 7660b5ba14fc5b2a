"""BatchNormalization as a neighbour: it takes another affine into its own scale and shift."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from normfold.export.arrays import Array
from normfold.export.fold.affine import Affine
from normfold.export.fold.batchnorm_parameters import BatchNorm, read_batchnorm
from normfold.export.fold.edits import Rewrite, replacement
from normfold.export.fold.plan import Step
from normfold.export.fold.rejection import Rejection, reject_not_per_channel, reject_read_as_weight
from normfold.export.graph.nodes import opset_of


def fold_backward(node: ir.Node, required: Mapping[int, Affine]) -> Step | Rejection:
    """Absorb: scale' = g * scale, shift' = g * shift + h."""
    own = _read(node)
    if isinstance(own, Rejection):
        return own
    channels = required[0].along(1, own.scale.size)
    if channels is None:
        return reject_not_per_channel(node)
    gain, offset = channels
    return _rewritten(own, gain * own.scale, gain * own.shift + offset)


def fold_forward(node: ir.Node, removed: Mapping[int, Affine]) -> Step | Rejection:
    """Absorb: scale' = scale * g, and shift' = shift + scale * (g * mean - mean + h) / sqrt(var + epsilon).

    The statistics stay those of the value before the affine was removed; they are only numbers here.
    """
    if set(removed) != {0}:
        return reject_read_as_weight(node)
    own = _read(node)
    if isinstance(own, Rejection):
        return own
    channels = removed[0].along(1, own.scale.size)
    if channels is None:
        return reject_not_per_channel(node)
    gain, offset = channels
    moved = gain * own.running_mean - own.running_mean + offset
    return _rewritten(own, own.scale * gain, own.shift + own.scale * moved / np.sqrt(own.running_var + own.epsilon))


def _read(node: ir.Node) -> BatchNorm | Rejection:
    return read_batchnorm(node, opset_of(node))


def _rewritten(own: BatchNorm, scale: Array, shift: Array) -> Step:
    node = own.node
    return Step(
        edit=Rewrite(
            node, {1: replacement(node, 1, "scale", lambda: scale), 2: replacement(node, 2, "shift", lambda: shift)}
        )
    )
