"""ConvTranspose of any rank, with groups: its weight has shape (C_in, C_out / group, *kernel)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from normfold.export.arrays import Array
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


def fold_backward(node: ir.Node, required: Mapping[int, Affine]) -> Step | Rejection:
    """Absorb: with gain g and offset h per output channel, W' = W * g and b' = g * b + h.

    The bias is added everywhere, whatever the stride and the padding of the output.
    """
    layer = read_layer(node)
    if isinstance(layer, Rejection):
        return layer
    inputs, outputs_per_group, *kernel = layer.weight_shape
    groups = node.attributes.get_int("group", 1)
    if inputs % groups:
        return reject_invalid_group(node)
    channels = required[0].along(1, outputs_per_group * groups)
    if channels is None:
        return reject_not_per_channel(node)
    gain, offset = channels
    weight_gain = by_group(gain, groups, inputs)  # (C_in, C_out / group)

    def bias() -> Array:
        return offset if layer.bias is None else gain * layer.bias() + offset

    needs_bias = layer.bias is not None or bool(offset.any())
    return layer.rewritten(
        weight=lambda: layer.weight() * weight_gain.reshape(*weight_gain.shape, *(1 for _ in kernel)),
        bias=(gain.shape, bias) if needs_bias else None,
    )


def fold_forward(node: ir.Node, removed: Mapping[int, Affine]) -> Step | Rejection:
    """Absorb: with gain g and offset h per input channel, W' = g * W, and b' = b + sum(W * h) where that is uniform.

    Every output position sees every tap, so that the sum is the same everywhere, only for stride 1 with pads of at
    least dilation * (kernel - 1) on both sides of every axis.
    """
    if set(removed) != {0}:
        return reject_read_as_weight(node)
    layer = read_layer(node)
    if isinstance(layer, Rejection):
        return layer
    inputs, outputs_per_group, *kernel = layer.weight_shape
    groups = node.attributes.get_int("group", 1)
    if inputs % groups:
        return reject_invalid_group(node)
    channels = removed[0].along(1, inputs)
    if channels is None:
        return reject_not_per_channel(node)
    gain, offset = channels
    if removed[0].has_offset and not _sees_every_tap(node, kernel):
        return Rejection(
            ReasonCode.UNEVEN_TAPS, node, "its output positions see different taps, so the offset is not uniform"
        )

    def bias() -> Array:
        weight = layer.weight().reshape(groups, inputs // groups, outputs_per_group, -1)
        added: Array = np.einsum("giok,gi->go", weight, offset.reshape(groups, -1)).reshape(-1)
        return added if layer.bias is None else layer.bias() + added

    return layer.rewritten(
        weight=lambda: layer.weight() * along_axis(gain, 0, len(layer.weight_shape)),
        bias=((outputs_per_group * groups,), bias) if removed[0].has_offset else None,
    )


def _sees_every_tap(node: ir.Node, kernel: list[int]) -> bool:
    rank = len(kernel)
    attributes = node.attributes
    if attributes.get_string("auto_pad", "NOTSET") != "NOTSET" or "output_shape" in attributes:
        return False
    if any(attributes.get_ints("output_padding", ())) or any(size != 1 for size in attributes.get_ints("strides", ())):
        return False
    pads = attributes.get_ints("pads", (0,) * (2 * rank))
    dilations = attributes.get_ints("dilations", (1,) * rank)
    reach = [dilation * (size - 1) for dilation, size in zip(dilations, kernel, strict=True)]
    return all(pad >= needed for pad, needed in zip(pads, reach * 2, strict=True))
