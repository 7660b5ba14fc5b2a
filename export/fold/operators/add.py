"""Add, Sub, Sum and Mean: of a constant, or of branches of equal shape."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from normfold.export.arrays import Array
from normfold.export.fold.affine import Affine
from normfold.export.fold.edits import Rewrite, replacement
from normfold.export.fold.operators.operands import is_too_small, with_affines, without_affines
from normfold.export.fold.plan import Step
from normfold.export.fold.reason_codes import ReasonCode
from normfold.export.fold.rejection import Rejection, reject_overridable
from normfold.export.graph.constants import constant_shape, float64_reader, is_constant
from normfold.export.graph.shapes import broadcasts_into, rank_of, sizes_of

_TAKES_OFFSET = frozenset({"Conv", "ConvTranspose", "Gemm", "BatchNormalization", "Add", "Sub"})


def fold_backward(node: ir.Node, required: Mapping[int, Affine]) -> Step | Rejection:
    """Absorb the offset in a constant, or hand it to one branch; ask every branch for the gain.

    g * (x + c) + h = (g * x) + (g * c + h)        g * (x + z) + h = (g * x + h) + (g * z)
    """
    affine, index = required[0], constant_index(node)
    if index is None:
        return _backward_branches(node, affine)
    if isinstance(index, Rejection):
        return index
    sign = _sign(node, index)
    edit = _with_constant(node, index, affine.gain * float64_reader(node.inputs[index])() + sign * affine.offset)
    backward = {1 - index: affine.without_offset()} if affine.has_gain else {}
    return Step(backward=backward, edit=edit)


def fold_forward(node: ir.Node, removed: Mapping[int, Affine]) -> Step | Rejection:
    """Absorb the offset in a constant and leave the gain to the readers: g * x + h + c = g * (x + (c + h) / g).

    Where a gain is too small to divide by, the constant stays and the readers get the offset too:
    g * x + h + c = g * (x + c) + (h + c - g * c).
    """
    index = constant_index(node)
    if index is None:
        return _forward_branches(node, removed)
    if isinstance(index, Rejection):
        return index
    # With s and t the signs of x and c: y = s * (g * x + h) + t * c. The constant that does all is c'.
    own, other = _sign(node, 1 - index), _sign(node, index)
    constant, affine = float64_reader(node.inputs[index])(), removed[1 - index]
    if is_too_small(affine.gain):
        return Step(forward={0: Affine(affine.gain, own * affine.offset + other * (constant - affine.gain * constant))})
    edit = _with_constant(node, index, (constant + own * other * affine.offset) / affine.gain)
    return Step(forward={0: affine.without_offset()} if affine.has_gain else {}, edit=edit)


def constant_index(node: ir.Node) -> int | Rejection | None:
    """Return which operand is the constant, None if there is none, or why the node cannot absorb an affine."""
    if len(node.inputs) != 2 or node.op_type == "Mean":
        return None
    for index in (1, 0):
        if is_constant(node.inputs[index]):
            if broadcasts_into(constant_shape(node.inputs[index]), sizes_of(node.inputs[1 - index])):
                return index
            return Rejection(
                ReasonCode.BROADCAST, node, "its constant enlarges the other operand, or that one's shape is unknown"
            )
    return None


def _sign(node: ir.Node, index: int) -> int:
    return -1 if node.op_type == "Sub" and index == 1 else 1


def _with_constant(node: ir.Node, index: int, values: Array) -> Rewrite:
    return Rewrite(node, {index: replacement(node, index, "bias", lambda: values, values.shape)})


def _backward_branches(node: ir.Node, affine: Affine) -> Step | Rejection:
    """Ask all branches for the gain, and one for the offset: a constant if there is one."""
    constants, others = _constants_and_others(node)
    if not others or not all(affine.fits(node.inputs[index]) for index in others):
        return _unequal_branches(node)
    parts = dict.fromkeys([*constants, *others], affine.without_offset())
    if affine.has_offset:
        branch = constants[0] if constants else max(others, key=lambda index: _takes_offset(node.inputs[index]))
        parts[branch] = Affine(affine.gain, _sign(node, branch) * _divisor(node) * affine.offset)
    edit = with_affines(node, {index: parts[index] for index in constants})
    if isinstance(edit, Rejection):
        return edit
    is_done = bool(constants) and not affine.has_gain
    return Step(backward={} if is_done else {index: parts[index] for index in others}, edit=edit)


def _forward_branches(node: ir.Node, removed: Mapping[int, Affine]) -> Step | Rejection:
    """Push what is removed from all branches: equal gains (1 for a branch without an affine), offsets added up.

    Constants take the offsets, and do without the gain: g * x + h + g * z + c + d = g * (x + z + (c + h) / g + d / g).
    """
    rank = rank_of(node.outputs[0])
    if rank is None or any(affine.rank != rank for affine in removed.values()):
        return _unequal_branches(node)
    constants, others = _constants_and_others(node)
    affines = {index: removed.get(index, Affine.identity(rank)) for index in others}
    gain = affines[others[0]].gain
    if not all(np.all(affine.gain == gain) for affine in affines.values()):
        detail = "its branches would arrive with different gains"
        return reject_overridable(node) or Rejection(ReasonCode.UNEQUAL_GAINS, node, detail)
    offset = sum((_sign(node, index) * affine.offset for index, affine in affines.items()), np.zeros([1] * rank))
    if not constants:
        return Step(forward={0: Affine(gain, offset / _divisor(node))})
    none = Affine(gain, np.zeros([1] * rank))
    edit = without_affines(node, dict.fromkeys(constants, none) | {constants[0]: Affine(gain, -offset)})
    if isinstance(edit, Rejection):
        return edit
    return Step(forward={0: none} if none.has_gain else {}, edit=edit)


def _constants_and_others(node: ir.Node) -> tuple[list[int], list[int]]:
    """Return the inputs that are constants, and those that are not."""
    constants = [index for index, value in enumerate(node.inputs) if is_constant(value)]
    return constants, [index for index in range(len(node.inputs)) if index not in constants]


def _divisor(node: ir.Node) -> int:
    """Return what the node divides the sum of its inputs by."""
    return len(node.inputs) if node.op_type == "Mean" else 1


def _unequal_branches(node: ir.Node) -> Rejection:
    detail = "its branches differ in shape, or their shapes are not known"
    return reject_overridable(node) or Rejection(ReasonCode.TWO_BRANCHES, node, detail)


def _takes_offset(value: ir.Value | None) -> bool:
    producer = value.producer() if value is not None else None
    return producer is not None and producer.op_type in _TAKES_OFFSET
