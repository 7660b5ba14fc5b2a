"""Conv of any rank, with groups, dilation and strides: y = W * x + b."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from normfold.export.arrays import Array, constant_axes_dropped
from normfold.export.fold.affine import Affine
from normfold.export.fold.layer import Layer, along_axis, by_group, read_layer
from normfold.export.fold.plan import Step
from normfold.export.fold.reason_codes import ReasonCode
from normfold.export.fold.rejection import (
    Rejection,
    reject_invalid_group,
    reject_not_per_channel,
    reject_read_as_weight,
)
from normfold.export.graph.shapes import static_size


def fold_backward(node: ir.Node, required: Mapping[int, Affine]) -> Step | Rejection:
    """Absorb: with gain g and offset h per output channel, W' = g * W and b' = g * b + h.

    The weight itself changes later: `Layer.rewritten` puts an `export.fold.edits.Rewrite` into the step, the planner
    puts it into the plan, `export.fold.stages.apply_plan` calls `Edit.apply`, and that calls `Editor.put_constant`.

    Source: Ioffe & Szegedy 2015, arXiv:1502.03167, section 3.1.
    """
    layer = read_layer(node)
    if isinstance(layer, Rejection):
        return layer
    outputs, rank = layer.weight_shape[0], len(layer.weight_shape)
    channels = required[0].along(1, outputs)
    if channels is None:
        return reject_not_per_channel(node)
    gain, offset = channels

    def bias() -> Array:
        return offset if layer.bias is None else gain * layer.bias() + offset

    needs_bias = layer.bias is not None or bool(offset.any())
    return layer.rewritten(
        weight=lambda: layer.weight() * along_axis(gain, 0, rank),
        bias=((outputs,), bias) if needs_bias else None,
    )


def fold_forward(node: ir.Node, removed: Mapping[int, Affine]) -> Step | Rejection:
    """Absorb: with gain g and offset h per input channel, W' = W * g and b' = b + sum(W * h) over inputs and taps.

    The sum is the same at every position only if every tap reads the image. With zero padding the border sees fewer;
    then a map of offsets, which varies over the positions, is removed from the output.
    """
    if set(removed) != {0}:
        return reject_read_as_weight(node)
    layer = read_layer(node)
    if isinstance(layer, Rejection):
        return layer
    outputs, inputs_per_group, *kernel = layer.weight_shape
    groups = node.attributes.get_int("group", 1)
    if outputs % groups:
        return reject_invalid_group(node)
    channels = removed[0].along(1, inputs_per_group * groups)
    if channels is None:
        return reject_not_per_channel(node)
    gain, offset = (by_group(vector, groups, outputs) for vector in channels)  # (C_out, C_in / group)

    def bias() -> Array:
        added: Array = np.einsum("oik,oi->o", layer.weight().reshape(outputs, inputs_per_group, -1), offset)
        return added if layer.bias is None else layer.bias() + added

    padded = removed[0].has_offset and _may_pad(node, kernel)
    step = layer.rewritten(
        weight=lambda: layer.weight() * gain.reshape(*gain.shape, *(1 for _ in kernel)),
        bias=((outputs,), bias) if removed[0].has_offset and not padded else None,
    )
    return _with_positional_offset(step, node, layer, offset) if padded else step


def _with_positional_offset(step: Step, node: ir.Node, layer: Layer, offset: Array) -> Step | Rejection:
    """Return the step with the map of offsets that a zero-padded Conv makes of an offset per channel.

        map[o, p] = sum over the taps k that read the image at position p of (sum over i of W[o, i, k] h[i])

    Args:
        step: without the offset.
        node: the Conv.
        layer: its weight.
        offset: (C_out, C_in / group).
    """
    rejection = Rejection(
        ReasonCode.ZERO_PADDING, node, "the offset would not be added to its zero padding at the border"
    )
    taps = _taps(node, layer.weight_shape[2:])
    if taps is None:
        return rejection
    added: Array = np.einsum("oi...,oi->o...", layer.weight(), offset)
    for sees in taps:  # each takes the first axis of taps, and puts its positions last
        added = np.tensordot(added, sees, (1, 0))
    affine = Affine(np.ones([1] * (1 + added.ndim)), constant_axes_dropped(added[None]))
    return replace(step, forward={0: affine}, if_blocked=rejection)


def _taps(node: ir.Node, kernel: Sequence[int]) -> list[Array] | None:
    """Return for each spatial axis an array (taps, positions): 1 where a tap reads the image, 0 where padding.

    None if the sizes of the image are not known.
    """
    rank = len(kernel)
    sizes = [[static_size(value, 2 + axis) for axis in range(rank)] for value in (node.inputs[0], node.outputs[0])]
    pads = node.attributes.get_ints("pads", (0,) * 2 * rank)
    if node.attributes.get_string("auto_pad", "NOTSET") != "NOTSET":
        return None
    strides, dilations = (node.attributes.get_ints(name, (1,) * rank) for name in ("strides", "dilations"))
    found = []
    for axis, (image, positions) in enumerate(zip(*sizes, strict=True)):
        if image is None or positions is None:
            return None
        tap, position = np.ogrid[: kernel[axis], :positions]
        read = position * strides[axis] - pads[axis] + tap * dilations[axis]
        found.append(((read >= 0) & (read < image)).astype(np.float64))
    return found


def _may_pad(node: ir.Node, kernel: list[int]) -> bool:
    """Return whether the node may read zeros beyond its input."""
    auto_pad = node.attributes.get_string("auto_pad", "NOTSET")
    if auto_pad == "NOTSET":
        return any(node.attributes.get_ints("pads", ()))
    return auto_pad != "VALID" and any(size != 1 for size in kernel)  # SAME never pads a kernel of one tap
