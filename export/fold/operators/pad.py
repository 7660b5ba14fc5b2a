"""Pad: copies of the value at its border, or a constant. Where pads are negative, it crops, as Slice does."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir

from normfold.export.arrays import Array
from normfold.export.fold.affine import Affine
from normfold.export.fold.edits import Edit, Rewrite, input_name
from normfold.export.fold.operators.elements import put_back, taken
from normfold.export.fold.operators.integers import Numbers, integers
from normfold.export.fold.plan import Step
from normfold.export.fold.reason_codes import ReasonCode
from normfold.export.fold.rejection import Rejection
from normfold.export.graph.constants import (
    DerivedConstant,
    constant_dtype,
    constant_tensor,
    float64_reader,
    is_constant,
    not_constant_because,
)
from normfold.export.graph.shapes import static_size

Pads = dict[int, tuple[int, int] | None]
"""Axis to what it gains before and after; None where that is not constant. Axes that stay as they are are left out."""


def fold_backward(node: ir.Node, required: Mapping[int, Affine]) -> Step | Rejection:
    """Pass; a constant c becomes g * c + h, if that is the same for all channels."""
    affine = required[0]
    pads = _pads(node, affine)
    if isinstance(pads, Rejection):
        return pads
    edit = _edit(node, pads, affine, lambda c: affine.gain * c + affine.offset)
    if isinstance(edit, Rejection):
        return edit
    before = _uncropped(node, pads, affine)
    return before if isinstance(before, Rejection) else Step(backward={0: before}, edit=edit)


def fold_forward(node: ir.Node, removed: Mapping[int, Affine]) -> Step | Rejection:
    """Pass; a constant c becomes (c - h) / g, if that is the same for all channels and no gain is zero."""
    if set(removed) != {0}:
        return Rejection(ReasonCode.INDICES, node, "it reads the value as its pads")
    pads = _pads(node, removed[0])
    if isinstance(pads, Rejection):
        return pads
    affine = _cropped(node, pads, removed[0])
    if isinstance(affine, Rejection):
        return affine
    if _adds_constant(node, pads) and not np.all(affine.gain):
        return Rejection(ReasonCode.ZERO_GAIN, node, "a gain of zero would lose the constant that it pads with")
    edit = _edit(node, pads, affine, lambda c: (c - affine.offset) / affine.gain)
    return edit if isinstance(edit, Rejection) else Step(forward={0: affine}, edit=edit)


def _cropped(node: ir.Node, pads: Pads, affine: Affine) -> Affine | Rejection:
    """Return the affine of what is left of the value where the node crops it."""
    for axis, pad in pads.items():
        if pad is not None and _crops(pad) and affine.varies_along([axis]):
            left = _left(node, axis, pad)
            if left is None:
                return _reject_unknown_size(node)
            affine = taken(affine, axis, left)
    return affine


def _uncropped(node: ir.Node, pads: Pads, affine: Affine) -> Affine | Rejection:
    """Return the affine of the whole value, where the node crops it with gain 1 and offset 0 for what goes."""
    for axis, pad in pads.items():
        if pad is not None and _crops(pad) and affine.varies_along([axis]):
            left, size = _left(node, axis, pad), static_size(node.inputs[0], axis)
            whole = None if left is None or size is None else put_back(affine, axis, left, size)
            if whole is None:
                return _reject_unknown_size(node)
            affine = whole
    return affine


def _left(node: ir.Node, axis: int, pad: tuple[int, int]) -> range | None:
    size = static_size(node.inputs[0], axis)
    return None if size is None else range(-pad[0], size + pad[1])


def _crops(pad: tuple[int, int]) -> bool:
    return max(pad) <= 0


def _adds_constant(node: ir.Node, pads: Pads) -> bool:
    adds = any(pad is None or not _crops(pad) for pad in pads.values())
    return adds and node.attributes.get_string("mode", "constant") == "constant"


def _reject_unknown_size(node: ir.Node) -> Rejection:
    return Rejection(ReasonCode.UNKNOWN_SHAPE, node, "the size of the axis that it crops is not known")


def _edit(node: ir.Node, pads: Pads, affine: Affine, new_constant: Callable[[float], Array]) -> Edit | Rejection | None:
    """Return the edit of the constant, or None where it does not, or is not used."""
    if affine.varies_along([axis for axis, pad in pads.items() if pad is not None and not _crops(pad)]):
        return Rejection(ReasonCode.PADDED_AXIS, node, "the affine varies along an axis that it pads")
    if not _adds_constant(node, pads):
        return None
    by_input = len(node.inputs) > 2 and node.inputs[2] is not None
    if by_input and not is_constant(node.inputs[2]):
        return Rejection(
            ReasonCode.WEIGHTS_NOT_CONSTANT, node, f"the value that it pads with {not_constant_because(node.inputs[2])}"
        )
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


def _why_not_constant(node: ir.Node) -> str:
    axes = node.inputs[3] if len(node.inputs) > 3 else None
    if axes is not None and constant_tensor(axes) is None:
        return f"which axes it pads {not_constant_because(axes)}"
    return f"how much it pads {not_constant_because(node.inputs[1])}"


def _pads(node: ir.Node, affine: Affine) -> Pads | Rejection:
    """Return the pads of each axis, or a rejection where they are not constant and the affine varies there."""
    numbers: Numbers | None = node.attributes.get_ints("pads", None) or integers(node.inputs[1])
    axes: Numbers = range(affine.rank)
    if len(node.inputs) > 3 and node.inputs[3] is not None:
        named = integers(node.inputs[3])
        if named is None or None in named:
            numbers = None
        else:
            axes = named
    if numbers is None:
        numbers = [None] * (2 * len(axes))
    pads: Pads = {}
    for axis, begin, end in zip(axes, numbers[: len(axes)], numbers[len(axes) :], strict=True):
        assert axis is not None  # only where all are known
        if begin != 0 or end != 0:
            pads[axis % affine.rank] = None if begin is None or end is None else (begin, end)
    if affine.varies_along([axis for axis, pad in pads.items() if pad is None]):
        return Rejection(ReasonCode.COMPUTED_PADS, node, _why_not_constant(node))
    return pads
