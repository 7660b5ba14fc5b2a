"""MatMul: Y = A B, by a constant matrix (its bias, if it has one, is an Add after it) or of two activations."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from normfold.export.arrays import Array
from normfold.export.fold.affine import Affine
from normfold.export.fold.edits import GemmAfterReshape, Rewrite, input_name
from normfold.export.fold.layer import along_axis
from normfold.export.fold.plan import Step
from normfold.export.fold.reason_codes import ReasonCode
from normfold.export.fold.rejection import Rejection, reject_not_per_channel, reject_overridable
from normfold.export.fold.weights.weight import ScaledWeight, Weight, is_weight, read_weight
from normfold.export.graph.constants import DerivedConstant
from normfold.export.graph.nodes import opset_of, sole_reader
from normfold.export.graph.shapes import rank_of, static_size

# A constant right factor (K, N) holds the columns of Y on its axis 1, a constant left factor (M, K) the rows of Y on
# its axis 0. The other axis is contracted with the last (right) or second-last (left) axis of the activation. Counted
# from the back, Y and the activation have the channel on the same axis.
_CHANNEL_FROM_BACK = {1: -1, 0: -2}


def fold_backward(node: ir.Node, required: Mapping[int, Affine]) -> Step | Rejection:
    """Absorb: the gain scales the columns (or rows) of the constant.

    MatMul has no bias to take an offset. With a constant on the right and Y of rank 2, or reshaped to rank 2, it
    becomes a Gemm, which has one. Of two activations one takes the affine: see `_backward_activations`.
    """
    weight = _read_weight(node)
    if weight is None:
        return _backward_activations(node, required[0])
    if isinstance(weight, Rejection):
        return weight
    index, shape = weight.index, weight.shape
    vectors = required[0].along(_CHANNEL_FROM_BACK[index], shape[index]) if required[0].rank >= 2 else None
    if vectors is None:
        return reject_not_per_channel(node)
    gain, offset = vectors
    scaled = weight.scaled(along_axis(gain, index, 2))
    if isinstance(scaled, Rejection):
        return scaled
    if not offset.any():
        return Step(edit=Rewrite(node, scaled.constants, sources=scaled.sources))
    gemm = _gemm(weight, scaled, offset)
    if index == 1 and required[0].rank == 2:
        return Step(edit=gemm)
    if index == 1 and (reshape := _reshape_to_matrix(node, shape[1])) is not None:
        return Step(edit=GemmAfterReshape(gemm, reshape, shape[0]))
    return Rejection(ReasonCode.NO_BIAS, node, "it has no bias that could take the offset")


def fold_forward(node: ir.Node, removed: Mapping[int, Affine]) -> Step | Rejection:
    """Absorb the gain; the offset h becomes h B (or A h): a Gemm's bias if Y is a matrix, else left to the readers."""
    weight = _read_weight(node)
    if weight is None:
        return _forward_activations(node, removed)
    if isinstance(weight, Rejection):
        return weight
    index, shape = weight.index, weight.shape
    affine, contracted = removed[1 - index], 1 - index
    vectors = affine.along(_CHANNEL_FROM_BACK[index], shape[contracted]) if affine.rank >= 2 else None
    if vectors is None:
        return reject_not_per_channel(node)
    gain, offset = vectors
    scaled = weight.scaled(along_axis(gain, contracted, 2))
    if isinstance(scaled, Rejection):
        return scaled
    edit = Rewrite(node, scaled.constants, sources=scaled.sources)
    if not offset.any():
        return Step(edit=edit)

    added = np.tensordot(weight.read(), offset, (contracted, 0))
    if index == 1 and affine.rank == 2:
        return Step(edit=_gemm(weight, scaled, added))
    lacking = Affine.per_channel(np.ones_like(added), added, affine.rank, axis=_CHANNEL_FROM_BACK[index])
    return Step(forward={0: lacking}, edit=edit)


def _read_weight(node: ir.Node) -> Weight | Rejection | None:
    """Return the constant factor, why it cannot be changed, or None where both are activations."""
    for index in (1, 0):
        if is_weight(node, index):
            weight = read_weight(node, index, output_axis=index)
            if isinstance(weight, Weight) and len(weight.shape) != 2:
                return Rejection(ReasonCode.WEIGHT_RANK, node, "its constant factor is not of rank 2")
            return weight
    return None


def _gemm(weight: Weight, scaled: ScaledWeight, bias: Array) -> Rewrite:
    """Return the MatMul as a Gemm, with its weight on the right scaled, and a bias."""
    derived = DerivedConstant(input_name(weight.node, 2, "bias"), bias.shape, weight.dtype, lambda: bias)
    return Rewrite(weight.node, {**scaled.constants, 2: derived}, op_type="Gemm", sources=scaled.sources)


def _reshape_to_matrix(node: ir.Node, columns: int) -> ir.Node | None:
    """Return the Reshape or Flatten that alone reads the node, if it makes a matrix with the same last axis."""
    reader = sole_reader(node.outputs[0])
    if reader is None or reader.op_type not in ("Reshape", "Flatten") or reader.domain != "":
        return None
    result = reader.outputs[0]
    return reader if rank_of(result) == 2 and static_size(result, 1) == columns else None


def _backward_activations(node: ir.Node, affine: Affine) -> Step | Rejection:
    """Ask the right factor for an affine along the columns of Y, or the left one for one along its rows.

    An offset along the columns, A (g * B + h) = g * (A B) + h, needs rows of A that add up to one, as Softmax makes;
    likewise for rows and columns exchanged.
    """
    if not _are_matrices(node):
        return reject_not_per_channel(node)
    for index in (1, 0):
        if not affine.varies_along([_contracted_axis(index)]) and affine.fits(node.inputs[index]):
            if affine.has_offset and not _adds_up_to_one(node, 1 - index):
                return reject_overridable(node) or _reject_offset(node)
            return Step(backward={index: affine})
    return reject_overridable(node) or reject_not_per_channel(node)


def _forward_activations(node: ir.Node, removed: Mapping[int, Affine]) -> Step | Rejection:
    """Pass what is removed from one factor along its own axis of Y; an offset only as in `_backward_activations`."""
    if len(removed) > 1:
        return Rejection(ReasonCode.PRODUCT, node, "the affine would be removed from both of its factors")
    ((index, affine),) = removed.items()
    if (
        not _are_matrices(node)
        or affine.rank != rank_of(node.outputs[0])
        or affine.varies_along([_contracted_axis(index)])
    ):
        return reject_overridable(node) or reject_not_per_channel(node)
    if affine.has_offset and not _adds_up_to_one(node, 1 - index):
        return reject_overridable(node) or _reject_offset(node)
    return Step(forward={0: affine})


def _reject_offset(node: ir.Node) -> Rejection:
    return Rejection(ReasonCode.NO_BIAS, node, "it multiplies two activations, and the sums of one are not one")


def _are_matrices(node: ir.Node) -> bool:
    """Return whether both factors have rows and columns; a vector loses its axis in the product."""
    return all((rank_of(value) or 0) >= 2 for value in node.inputs)


def _contracted_axis(index: int) -> int:
    """Return the axis of a factor that is summed over, which in Y belongs to the other factor."""
    return -1 if index == 0 else -2


def _adds_up_to_one(node: ir.Node, index: int) -> bool:
    """Return whether a factor adds up to one along its contracted axis: it is a Softmax along exactly that axis."""
    value = node.inputs[index]
    producer, rank = (value.producer() if value is not None else None), rank_of(value)
    if producer is None or producer.op_type != "Softmax" or producer.domain != "" or rank is None:
        return False
    flattens = opset_of(producer) < 13  # then all axes from this one on are one
    axis = producer.attributes.get_int("axis", 1 if flattens else -1) % rank
    return axis == _contracted_axis(index) % rank and not (flattens and axis != rank - 1)
