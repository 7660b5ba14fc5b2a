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
    """Absorb, with scale' = scale * g and, in each channel, one of

        mean' = (mean - h) / g        shift' = shift
        mean' = mean                  shift' = shift + scale * (g * mean - mean + h) / sqrt(var + epsilon)

    The same in float64; that is chosen whose two terms are smaller, since large ones cancel in fewer digits. The
    variance stays that of the value before the affine was removed; it is only a number here.
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
    per_unit = own.scale / np.sqrt(own.running_var + own.epsilon)
    shift = own.shift + per_unit * (gain * own.running_mean - own.running_mean + offset)
    by_mean = np.abs(per_unit * (own.running_mean - offset)) + np.abs(own.shift)
    by_shift = np.abs(per_unit * gain * own.running_mean) + np.abs(shift)
    moved = (by_mean < by_shift) & (gain != 0)
    if not moved.any():
        return _rewritten(own, own.scale * gain, shift)
    mean = np.where(moved, (own.running_mean - offset) / np.where(moved, gain, 1), own.running_mean)
    return _rewritten(own, own.scale * gain, np.where(moved, own.shift, shift), mean)


def _read(node: ir.Node) -> BatchNorm | Rejection:
    return read_batchnorm(node, opset_of(node))


def _rewritten(own: BatchNorm, scale: Array, shift: Array, running_mean: Array | None = None) -> Step:
    node = own.node
    edits = {1: replacement(node, 1, "scale", lambda: scale), 2: replacement(node, 2, "shift", lambda: shift)}
    if running_mean is not None:
        edits[3] = replacement(node, 3, "running_mean", lambda: running_mean)
    return Step(edit=Rewrite(node, edits))
