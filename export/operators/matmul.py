"""MatMul with one constant of rank 2: Y = A B, where a bias, if there is one, is an Add behind."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir

from export.affine import Affine, Array
from export.constants import Derived, constant_dtype, constant_shape, exact, is_constant
from export.layer import not_per_channel, spread
from export.operators import add
from export.plan import Rewrite, Step
from export.refusal import Refusal, node_label

# A constant right factor (K, N) holds the columns of Y on its axis 1, a constant left factor (M, K) the rows of Y on
# its axis 0. The other axis is contracted with the last (right) or second-last (left) axis of the activation. Counted
# from the back, Y and the activation have the channel on the same axis.
_CHANNEL_FROM_BACK = {1: -1, 0: -2}


def pull(node: ir.Node, wanted: Mapping[int, Affine]) -> Step | Refusal:
    """Absorb: the gain scales the columns (or rows) of the constant.

    MatMul has no bias to take an offset. With a constant on the right and Y of rank 2 it becomes a Gemm, which has one.
    """
    index = _constant_index(node)
    if isinstance(index, Refusal):
        return index
    shape = constant_shape(node.inputs[index])
    vectors = wanted[0].along(_CHANNEL_FROM_BACK[index], shape[index]) if wanted[0].rank >= 2 else None
    if vectors is None:
        return not_per_channel(node)
    gain, offset = vectors
    weight = exact(node.inputs[index])
    scaled = _derived(node, index, lambda: weight() * spread(gain, index, 2))
    if not offset.any():
        return Step(rewrite=Rewrite(node, {index: scaled}))
    if index == 1 and wanted[0].rank == 2:
        return _become_gemm(node, scaled, Derived(_bias_name(node), gain.shape, scaled.dtype, lambda: offset))
    return Refusal("no-bias", "it has no bias that could take the offset", node)


def push(node: ir.Node, missing: Mapping[int, Affine]) -> Step | Refusal:
    """Absorb the gain into the constant; the offset h leaves as h B (or A h), for the Add behind or a Gemm's bias."""
    index = _constant_index(node)
    if isinstance(index, Refusal):
        return index
    affine = missing[1 - index]
    shape, contracted = constant_shape(node.inputs[index]), 1 - index
    vectors = affine.along(_CHANNEL_FROM_BACK[index], shape[contracted]) if affine.rank >= 2 else None
    if vectors is None:
        return not_per_channel(node)
    gain, offset = vectors
    weight = exact(node.inputs[index])
    scaled = _derived(node, index, lambda: weight() * spread(gain, contracted, 2))
    if not offset.any():
        return Step(rewrite=Rewrite(node, {index: scaled}))

    added = np.tensordot(weight(), offset, (contracted, 0))
    if index == 1 and affine.rank == 2 and not _is_followed_by_constant_add(node):
        return _become_gemm(node, scaled, Derived(_bias_name(node), added.shape, scaled.dtype, lambda: added))
    lacking = Affine.per_channel(np.ones_like(added), added, affine.rank, axis=_CHANNEL_FROM_BACK[index])
    return Step(pushes={0: lacking}, rewrite=Rewrite(node, {index: scaled}))


def _constant_index(node: ir.Node) -> int | Refusal:
    for index in (1, 0):
        if is_constant(node.inputs[index]):
            if len(constant_shape(node.inputs[index])) == 2:
                return index
            return Refusal("weight-rank", "its constant factor is not of rank 2", node)
    return Refusal("weights-not-constant", "neither factor is a constant that may be replaced", node)


def _derived(node: ir.Node, index: int, compute: Callable[[], Array]) -> Derived:
    value = node.inputs[index]
    assert value is not None  # a constant
    return Derived(value.name or f"{node_label(node)}.weight", constant_shape(value), constant_dtype(value), compute)


def _bias_name(node: ir.Node) -> str:
    return f"{node_label(node)}.bias"


def _become_gemm(node: ir.Node, weight: Derived, bias: Derived) -> Step:
    return Step(rewrite=Rewrite(node, {1: weight, 2: bias}, op_type="Gemm"))


def _is_followed_by_constant_add(node: ir.Node) -> bool:
    uses = list(node.outputs[0].uses())
    return len(uses) == 1 and uses[0].node.op_type == "Add" and isinstance(add.constant_index(uses[0].node), int)
