"""InstanceNormalization, LayerNormalization, GroupNormalization: each ends in a scale and shift of its own."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from normfold.export.fold.affine import Affine, Array
from normfold.export.fold.layer import not_per_channel, read_layer
from normfold.export.fold.plan import Step
from normfold.export.fold.rejection import Refusal


def pull(node: ir.Node, wanted: Mapping[int, Affine]) -> Step | Refusal:
    """Absorb: scale' = g * scale, shift' = g * shift + h."""
    if set(wanted) != {0}:
        return Refusal("operator", "its statistics are read too, and carry no affine", node)
    layer = read_layer(node)
    if isinstance(layer, Refusal):
        return layer
    shape = layer.weight_shape
    arrays = _as_parameters(node, wanted[0], shape)
    if arrays is None:
        return not_per_channel(node)
    gain, offset = arrays

    def bias() -> Array:
        return offset if layer.bias is None else gain * layer.bias() + offset

    needs_bias = layer.bias is not None or bool(offset.any())
    return layer.rewritten(lambda: layer.weight() * gain, bias=(shape, bias) if needs_bias else None)


def push(node: ir.Node, missing: Mapping[int, Affine]) -> Step | Refusal:
    """Refuse: it measures what comes in."""
    del missing
    return Refusal("non-linear", "it normalises by statistics of its input", node)


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
