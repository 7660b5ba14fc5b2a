"""Conv of any rank, with groups, dilation and strides: y = W * x + b."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from export.affine import Affine, Array
from export.layer import by_group, invalid_group, not_per_channel, read_as_weight, read_layer, spread
from export.plan import Step
from export.refusal import Refusal


def pull(node: ir.Node, wanted: Mapping[int, Affine]) -> Step | Refusal:
    """Absorb: with gain g and offset h per output channel, W' = g * W and b' = g * b + h.

    Source: Ioffe & Szegedy 2015, arXiv:1502.03167, section 3.1.
    """
    layer = read_layer(node)
    if isinstance(layer, Refusal):
        return layer
    outputs, rank = layer.weight_shape[0], len(layer.weight_shape)
    channels = wanted[0].along(1, outputs)
    if channels is None:
        return not_per_channel(node)
    gain, offset = channels

    def bias() -> Array:
        return offset if layer.bias is None else gain * layer.bias() + offset

    needs_bias = layer.bias is not None or bool(offset.any())
    return layer.rewritten(
        weight=lambda: layer.weight() * spread(gain, 0, rank),
        bias=((outputs,), bias) if needs_bias else None,
    )


def push(node: ir.Node, missing: Mapping[int, Affine]) -> Step | Refusal:
    """Absorb: with gain g and offset h per input channel, W' = W * g and b' = b + sum(W * h) over inputs and taps.

    The sum is the same at every position only if every tap reads the image: with zero padding the border sees fewer.
    """
    if set(missing) != {0}:
        return read_as_weight(node)
    layer = read_layer(node)
    if isinstance(layer, Refusal):
        return layer
    outputs, inputs_per_group, *kernel = layer.weight_shape
    groups = node.attributes.get_int("group", 1)
    if outputs % groups:
        return invalid_group(node)
    channels = missing[0].along(1, inputs_per_group * groups)
    if channels is None:
        return not_per_channel(node)
    if missing[0].has_offset and _may_pad(node, kernel):
        return Refusal("zero-padding", "its zero padding would lack the offset at the border", node)
    gain, offset = (by_group(vector, groups, outputs) for vector in channels)  # (C_out, C_in / group)

    def bias() -> Array:
        added: Array = np.einsum("oik,oi->o", layer.weight().reshape(outputs, inputs_per_group, -1), offset)
        return added if layer.bias is None else layer.bias() + added

    return layer.rewritten(
        weight=lambda: layer.weight() * gain.reshape(*gain.shape, *(1 for _ in kernel)),
        bias=((outputs,), bias) if missing[0].has_offset else None,
    )


def _may_pad(node: ir.Node, kernel: list[int]) -> bool:
    """Whether the node may read zeros beyond its input."""
    auto_pad = node.attributes.get_string("auto_pad", "NOTSET")
    if auto_pad == "NOTSET":
        return any(node.attributes.get_ints("pads", ()))
    return auto_pad != "VALID" and any(size != 1 for size in kernel)  # SAME never pads a kernel of one tap
