"""Mul and Div: by a constant, or of two activations."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from normfold.export.arrays import Array
from normfold.export.fold.affine import Affine
from normfold.export.fold.edits import Rewrite, replacement
from normfold.export.fold.operators.add import constant_index
from normfold.export.fold.plan import Step
from normfold.export.fold.reason_codes import ReasonCode
from normfold.export.fold.rejection import Rejection, reject_overridable
from normfold.export.graph.constants import float64_reader, is_constant
from normfold.export.graph.shapes import rank_of


def fold_backward(node: ir.Node, required: Mapping[int, Affine]) -> Step | Rejection:
    """Absorb a gain; with an offset, ask x for both, the offset over the constant: g * c * x + h = c * (g * x + h / c).

    Of two activations one takes the gain; an offset has no place there.
    """
    affine, index = required[0], _constant_index(node)
    if isinstance(index, Rejection):
        return index
    if index is None:
        return _backward_activations(node, affine)
    factor = _factor(node, index)
    if not affine.has_offset:
        return _step(node, index, affine.gain * factor)
    if not np.all(factor):
        return Rejection(
            ReasonCode.ZERO_GAIN, node, "it multiplies by zero, and no offset before it would show after it"
        )
    return Step(backward={1 - index: Affine(affine.gain, affine.offset / factor)})


def fold_forward(node: ir.Node, removed: Mapping[int, Affine]) -> Step | Rejection:
    """Absorb the gain, and leave the offset times the constant to the readers: c * (g * x + h) = (c * g) * x + c * h.

    Of two activations a gain passes; an offset does not.
    """
    index = _constant_index(node)
    if isinstance(index, Rejection):
        return index
    if index is None:
        return _forward_activations(node, removed)
    affine, factor = removed[1 - index], _factor(node, index)
    forward = {}
    if affine.has_offset:
        forward[0] = Affine(np.ones([1] * affine.rank), affine.offset * factor)
    return _step(node, index, affine.gain * factor, forward=forward)


def _constant_index(node: ir.Node) -> int | Rejection | None:
    if node.op_type == "Div" and is_constant(node.inputs[0]) and not is_constant(node.inputs[1]):
        return Rejection(ReasonCode.RECIPROCAL, node, "it divides by the value")
    return constant_index(node)


def _factor(node: ir.Node, index: int) -> Array:
    constant = float64_reader(node.inputs[index])()
    with np.errstate(divide="ignore"):
        return 1 / constant if node.op_type == "Div" else constant


def _step(
    node: ir.Node,
    index: int,
    factor: Array,
    forward: Mapping[int, Affine] | None = None,
) -> Step | Rejection:
    """Return the step that makes the node multiply by another factor."""
    with np.errstate(divide="ignore"):
        constant = 1 / factor if node.op_type == "Div" else factor
    if not np.isfinite(constant).all():
        return Rejection(ReasonCode.ZERO_GAIN, node, "it would divide by zero, or does")
    edit = Rewrite(node, {index: replacement(node, index, "factor", lambda: constant, constant.shape)})
    return Step(forward=forward or {}, edit=edit)


def _backward_activations(node: ir.Node, affine: Affine) -> Step | Rejection:
    if affine.has_offset:
        detail = "it multiplies two activations, and neither can take an offset"
        return reject_overridable(node) or Rejection(ReasonCode.PRODUCT_OFFSET, node, detail)
    for index in (0, 1):
        if index == 1 and node.op_type == "Div":
            break
        value = node.inputs[index]
        if value is not None and len(value.uses()) == 1 and affine.fits(value):
            return Step(backward={index: affine})
    detail = "neither of its factors is read by it alone and of the shape that the gain needs"
    return reject_overridable(node) or Rejection(ReasonCode.PRODUCT, node, detail)


def _forward_activations(node: ir.Node, removed: Mapping[int, Affine]) -> Step | Rejection:
    if any(affine.has_offset for affine in removed.values()):
        detail = "it multiplies two activations, and an offset was removed from one"
        return reject_overridable(node) or Rejection(ReasonCode.PRODUCT_OFFSET, node, detail)
    if node.op_type == "Div" and 1 in removed:
        return Rejection(ReasonCode.RECIPROCAL, node, "it divides by the value")
    rank = rank_of(node.outputs[0])
    if rank is None or any(affine.rank != rank for affine in removed.values()):
        detail = "its factors differ in rank, or their shapes are not known"
        return reject_overridable(node) or Rejection(ReasonCode.TWO_BRANCHES, node, detail)
    gain: Array = np.ones([1] * rank)
    for affine in removed.values():
        gain = gain * affine.gain
    return Step(forward={0: Affine(gain, np.zeros([1] * gain.ndim))})
