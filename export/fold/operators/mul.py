"""Mul and Div: by a constant, or of two activations."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from normfold.export.fold.affine import Affine, Array
from normfold.export.fold.edits import Rewrite
from normfold.export.fold.plan import Step
from normfold.export.fold.rejection import Refusal, node_label
from normfold.export.graph.constants import Derived, constant_dtype, constant_shape, exact, is_constant
from normfold.export.graph.shapes import broadcasts_into, fits, rank_of, sizes_of


def pull(node: ir.Node, wanted: Mapping[int, Affine]) -> Step | Refusal:
    """Absorb a gain; with an offset, ask x for both, the offset over the constant: g * c * x + h = c * (g * x + h / c).

    Of two activations one takes the gain; an offset has no place there.
    """
    affine, index = wanted[0], _constant_index(node)
    if isinstance(index, Refusal):
        return index
    if index is None:
        return _pull_activations(node, affine)
    factor = _factor(node, index)
    if not affine.has_offset:
        return _step(node, index, affine.gain * factor)
    if not np.all(factor):
        return Refusal("zero-gain", "it multiplies by zero, and no offset before it would show behind", node)
    return Step(pulls={1 - index: Affine(affine.gain, affine.offset / factor)})


def push(node: ir.Node, missing: Mapping[int, Affine]) -> Step | Refusal:
    """Absorb the gain, and leave the offset times the constant to the readers: c * (g * x + h) = (c * g) * x + c * h.

    Of two activations a gain passes; an offset refuses.
    """
    index = _constant_index(node)
    if isinstance(index, Refusal):
        return index
    if index is None:
        return _push_activations(node, missing)
    affine, factor = missing[1 - index], _factor(node, index)
    pushes = {}
    if affine.has_offset:
        pushes[0] = Affine(np.ones([1] * affine.rank), affine.offset * factor)
    return _step(node, index, affine.gain * factor, pushes=pushes)


def _constant_index(node: ir.Node) -> int | Refusal | None:
    for index in (1, 0):
        if is_constant(node.inputs[index]):
            if node.op_type == "Div" and index == 0:
                return Refusal("reciprocal", "it divides by the value", node)
            if broadcasts_into(constant_shape(node.inputs[index]), sizes_of(node.inputs[1 - index])):
                return index
            return Refusal("broadcast", "its constant enlarges the other operand, or that one's shape is unknown", node)
    return None


def _factor(node: ir.Node, index: int) -> Array:
    constant = exact(node.inputs[index])()
    with np.errstate(divide="ignore"):
        return 1 / constant if node.op_type == "Div" else constant


def _step(
    node: ir.Node,
    index: int,
    factor: Array,
    pushes: Mapping[int, Affine] | None = None,
) -> Step | Refusal:
    """Return the step that makes the node multiply by another factor."""
    value = node.inputs[index]
    assert value is not None  # a constant
    with np.errstate(divide="ignore"):
        constant = 1 / factor if node.op_type == "Div" else factor
    if not np.isfinite(constant).all():
        return Refusal("zero-gain", "it would divide by zero, or does", node)
    name = value.name or f"{node_label(node)}.factor"
    change = Rewrite(node, {index: Derived(name, constant.shape, constant_dtype(value), lambda: constant)})
    return Step(pushes=pushes or {}, change=change)


def _pull_activations(node: ir.Node, affine: Affine) -> Step | Refusal:
    if affine.has_offset:
        return Refusal("product-offset", "it multiplies two activations, and neither can take an offset", node)
    for index in (0, 1):
        if index == 1 and node.op_type == "Div":
            break
        value = node.inputs[index]
        if value is not None and len(value.uses()) == 1 and fits(affine, value):
            return Step(pulls={index: affine})
    return Refusal("product", "neither of its factors is read by it alone and of the shape that the gain needs", node)


def _push_activations(node: ir.Node, missing: Mapping[int, Affine]) -> Step | Refusal:
    if any(affine.has_offset for affine in missing.values()):
        return Refusal("product-offset", "it multiplies two activations, of which one lacks an offset", node)
    if node.op_type == "Div" and 1 in missing:
        return Refusal("reciprocal", "it divides by the value", node)
    rank = rank_of(node.outputs[0])
    if rank is None or any(affine.rank != rank for affine in missing.values()):
        return Refusal("two-branches", "its factors differ in rank, or their shapes are not known", node)
    gain: Array = np.ones([1] * rank)
    for affine in missing.values():
        gain = gain * affine.gain
    return Step(pushes={0: Affine(gain, np.zeros([1] * gain.ndim))})
