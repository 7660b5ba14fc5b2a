"""Pad: copies of the value at its border, or a constant."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir

from normfold.export.arrays import Array
from normfold.export.fold.affine import Affine
from normfold.export.fold.edits import Edit, Rewrite, input_name
from normfold.export.fold.plan import Step
from normfold.export.fold.reason_codes import ReasonCode
from normfold.export.fold.rejection import Rejection
from normfold.export.graph.constants import (
    DerivedConstant,
    constant_dtype,
    constant_tensor,
    float64_reader,
    is_constant,
)


def fold_backward(node: ir.Node, required: Mapping[int, Affine]) -> Step | Rejection:
    """Pass; a constant c becomes g * c + h, if that is the same for all channels."""
    affine = required[0]
    edit = _edit(node, affine, lambda c: affine.gain * c + affine.offset)
    return edit if isinstance(edit, Rejection) else Step(backward={0: affine}, edit=edit)


def fold_forward(node: ir.Node, removed: Mapping[int, Affine]) -> Step | Rejection:
    """Pass; a constant c becomes (c - h) / g, if that is the same for all channels and no gain is zero."""
    if set(removed) != {0}:
        return Rejection(ReasonCode.INDICES, node, "it reads the value as its pads")
    affine = removed[0]
    if not np.all(affine.gain) and node.attributes.get_string("mode", "constant") == "constant":
        return Rejection(ReasonCode.ZERO_GAIN, node, "a gain of zero would lose the constant that it pads with")
    edit = _edit(node, affine, lambda c: (c - affine.offset) / affine.gain)
    return edit if isinstance(edit, Rejection) else Step(forward={0: affine}, edit=edit)


def _edit(node: ir.Node, affine: Affine, new_constant: Callable[[float], Array]) -> Edit | Rejection | None:
    """Return the edit of the constant, or None where it does not, or is not used."""
    axes = _padded_axes(node, affine.rank)
    if isinstance(axes, Rejection):
        return axes
    if not axes:
        return None
    if affine.varies_along(axes):
        return Rejection(ReasonCode.PADDED_AXIS, node, "the affine varies along an axis that it pads")
    if node.attributes.get_string("mode", "constant") != "constant":
        return None
    by_input = len(node.inputs) > 2 and node.inputs[2] is not None
    if by_input and not is_constant(node.inputs[2]):
        return Rejection(ReasonCode.WEIGHTS_NOT_CONSTANT, node, "the value that it pads with is computed")
    old = (
        float(float64_reader(node.inputs[2])().reshape(-1)[0]) if by_input else node.attributes.get_float("value", 0.0)
    )
    values = new_constant(old)
    if not np.all(values == values.flat[0]):
        return Rejection(
            ReasonCode.PADDING_NOT_UNIFORM, node, "it pads all channels with one value, and each would need its own"
        )
    new = float(values.flat[0])
    if new == old:
        return None
    if len(node.inputs) < 2 or node.inputs[1] is None:  # until opset 10 all are attributes
        return Rewrite(node, {}, attributes={"value": new})
    source = node.inputs[2] if by_input else node.inputs[0]
    dtype = constant_dtype(source) if by_input else source.dtype if source is not None else None
    if dtype is None:
        return Rejection(ReasonCode.UNKNOWN_SHAPE, node, "the dtype of its input is not known")
    return Rewrite(
        node, {2: DerivedConstant(input_name(node, 2, "constant"), (), dtype, lambda: np.float64(new) * np.ones(()))}
    )


def _padded_axes(node: ir.Node, rank: int) -> list[int] | Rejection:
    pads = node.attributes.get_ints("pads", None)
    axes: list[int] = list(range(rank))
    if pads is None:
        tensors = [constant_tensor(node.inputs[index]) if index < len(node.inputs) else None for index in (1, 3)]
        if tensors[0] is None or (len(node.inputs) > 3 and node.inputs[3] is not None and tensors[1] is None):
            return Rejection(ReasonCode.COMPUTED_PADS, node, "its pads are computed, not constant")
        pads = [int(pad) for pad in tensors[0].numpy()]
        if tensors[1] is not None:
            axes = [int(axis) % rank for axis in tensors[1].numpy()]
    return [axis for index, axis in enumerate(axes) if pads[index] or pads[index + len(axes)]]
