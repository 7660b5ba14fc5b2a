"""DeformConv: a Conv that reads between positions, by offsets that are computed; its bias is input 3."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from normfold.export.fold.affine import Affine
from normfold.export.fold.layer import along_axis, by_group, read_layer
from normfold.export.fold.plan import Step
from normfold.export.fold.reason_codes import ReasonCode
from normfold.export.fold.rejection import (
    Rejection,
    reject_invalid_group,
    reject_not_per_channel,
    reject_read_as_weight,
)

_BIAS = 3
_ROLES = {2: "the offsets of its taps", 4: "the mask of its taps"}


def fold_backward(node: ir.Node, required: Mapping[int, Affine]) -> Step | Rejection:
    """Absorb as Conv does: W' = g * W and b' = g * b + h; the bias is added everywhere."""
    layer = read_layer(node, _BIAS)
    if isinstance(layer, Rejection):
        return layer
    outputs, rank = layer.weight_shape[0], len(layer.weight_shape)
    channels = required[0].along(1, outputs)
    if channels is None:
        return reject_not_per_channel(node)
    gain, offset = channels
    own = layer.bias
    needs_bias = own is not None or bool(offset.any())
    return layer.rewritten(
        along_axis(gain, 0, rank),
        ((outputs,), lambda: offset if own is None else gain * own() + offset) if needs_bias else None,
    )


def fold_forward(node: ir.Node, removed: Mapping[int, Affine]) -> Step | Rejection:
    """Absorb a gain, W' = W * g; not an offset: taps that lie beyond the image, or are masked, would lack it."""
    for index in removed:
        if index in _ROLES:
            return Rejection(ReasonCode.OPERATOR, node, f"it reads the value as {_ROLES[index]}")
        if index != 0:
            return reject_read_as_weight(node)
    layer = read_layer(node, _BIAS)
    if isinstance(layer, Rejection):
        return layer
    outputs, inputs_per_group, *kernel = layer.weight_shape
    groups = node.attributes.get_int("group", 1)
    if outputs % groups:
        return reject_invalid_group(node)
    channels = removed[0].along(1, inputs_per_group * groups)
    if channels is None:
        return reject_not_per_channel(node)
    if removed[0].has_offset:
        because = "its taps may lie beyond the image, or be masked, where the offset would be missing"
        return Rejection(ReasonCode.UNEVEN_TAPS, node, because)
    gain = by_group(channels[0], groups, outputs)
    return layer.rewritten(gain.reshape(*gain.shape, *(1 for _ in kernel)), None)
