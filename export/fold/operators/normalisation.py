"""InstanceNormalization, LayerNormalization, GroupNormalization: each ends in a scale and shift of its own."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from normfold.export.arrays import Array
from normfold.export.fold.affine import Affine
from normfold.export.fold.layer import read_layer
from normfold.export.fold.plan import Step
from normfold.export.fold.reason_codes import ReasonCode
from normfold.export.fold.rejection import Rejection, reject_not_per_channel


def fold_backward(node: ir.Node, required: Mapping[int, Affine]) -> Step | Rejection:
    """Absorb: scale' = g * scale, shift' = g * shift + h."""
    if set(required) != {0}:
        return Rejection(ReasonCode.OPERATOR, node, "its statistics are read too, and carry no affine")
    layer = read_layer(node)
    if isinstance(layer, Rejection):
        return layer
    shape = layer.weight_shape
    arrays = _as_parameters(node, required[0], shape)
    if arrays is None:
        return reject_not_per_channel(node)
    gain, offset = arrays

    def bias() -> Array:
        return offset if layer.bias is None else gain * layer.bias() + offset

    needs_bias = layer.bias is not None or bool(offset.any())
    return layer.rewritten(lambda: layer.weight() * gain, bias=(shape, bias) if needs_bias else None)


def fold_forward(node: ir.Node, removed: Mapping[int, Affine]) -> Step | Rejection:
    """Reject every affine: the node normalises by statistics of its input."""
    del removed
    return Rejection(ReasonCode.NON_LINEAR, node, "it normalises by statistics of its input")


def _as_parameters(node: ir.Node, affine: Affine, shape: tuple[int, ...]) -> tuple[Array, Array] | None:
    """Return gain and offset in the shape of the node's scale, or None if they vary where that does not."""
    if node.op_type == "LayerNormalization":
        first = node.attributes.get_int("axis", -1) % affine.rank
        if affine.varies_along(range(first)):
            return None
        arrays = [array.reshape(array.shape[first:]) for array in (affine.gain, affine.offset)]
        if any(array.ndim != len(shape) for array in arrays):
            return None
        gain, offset = (np.broadcast_to(array, shape) for array in arrays)
        return gain, offset
    # GroupNormalization has one scale for each group until opset 20, one for each channel from 21 on.
    return affine.along(1, shape[0])
