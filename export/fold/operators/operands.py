"""Operands that broadcast to a result: the part of an affine that each one takes, the constant ones in their values."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir

from normfold.export.arrays import Array
from normfold.export.fold.affine import Affine
from normfold.export.fold.edits import Rewrite, replacement
from normfold.export.fold.reason_codes import ReasonCode
from normfold.export.fold.rejection import Rejection
from normfold.export.graph.constants import DerivedConstant, float64_reader
from normfold.export.graph.shapes import rank_of

# Below this gain, relative to the largest, (c - h) / g would grow out of all proportion to what it stands beside.
_MIN_RELATIVE_GAIN = 1e-4
_MIN_GAIN = 1e-12


def is_too_small(gain: Array) -> bool:
    """Return whether a constant must not be divided by a gain: one of its values is zero, or close to it."""
    sizes = np.abs(gain)
    return bool(sizes.min() <= max(_MIN_RELATIVE_GAIN * sizes.max(), _MIN_GAIN))


def affine_of_operand(affine: Affine, operand: ir.Value | None) -> Affine | None:
    """Return an affine of a result as one of an operand that broadcasts to the result.

    Returns:
        The affine, of the operand's rank, or None if it varies along an axis that the operand lacks or has size 1 on.
    """
    rank = rank_of(operand)
    if rank is None or rank > affine.rank:
        return None
    new = affine.rank - rank
    if affine.varies_along(range(new)):
        return None
    own = affine.map(lambda array: array.reshape(array.shape[new:]))
    return own if own.fits(operand) else None


def affine_of_result(affine: Affine, rank: int) -> Affine:
    """Return an affine of an operand as one of the result, of the given rank, that it broadcasts to."""
    new = (1,) * (rank - affine.rank)
    return affine.map(lambda array: array.reshape(*new, *array.shape))


def is_same(one: Affine, other: Affine) -> bool:
    """Return whether two affines of one rank are equal, however far their arrays are spread."""
    return bool(np.all(one.gain == other.gain) and np.all(one.offset == other.offset))


def with_affines(node: ir.Node, affines: Mapping[int, Affine]) -> Rewrite | Rejection | None:
    """Apply affines to constant operands: c' = g * c + h.

    Args:
        node: reads the constants.
        affines: by input index, of the rank of the node's output.

    Returns:
        The edit, None if no constant changes, or why one cannot take its affine.
    """
    return _changed(node, affines, lambda constant, affine: affine.gain * constant + affine.offset)


def without_affines(node: ir.Node, affines: Mapping[int, Affine]) -> Rewrite | Rejection | None:
    """Take affines from constant operands: c' = (c - h) / g.

    Args:
        node: reads the constants.
        affines: by input index, of the rank of the node's output.

    Returns:
        The edit, None if no constant changes, or why one cannot do without its affine.
    """
    if any(is_too_small(affine.gain) for affine in affines.values()):
        return Rejection(ReasonCode.ZERO_GAIN, node, "its constant would be divided by a gain of zero, or close to it")
    edit = _changed(node, affines, lambda constant, affine: (constant - affine.offset) / affine.gain)
    # A mask of the smallest finite number must not become infinite: what reads it may multiply it by zero.
    if isinstance(edit, Rewrite) and any(_overflows(derived) for derived in edit.new_constants):
        return Rejection(
            ReasonCode.OVERFLOW, node, "its constant, divided by a gain, would exceed the range of its type"
        )
    return edit


def _overflows(derived: DerivedConstant) -> bool:
    values = derived.compute()
    with np.errstate(over="ignore"):
        rounded = values.astype(derived.dtype.numpy())
    return bool(np.any(np.isinf(rounded.astype(np.float64)) & np.isfinite(values)))


def _changed(
    node: ir.Node, affines: Mapping[int, Affine], change: Callable[[Array, Affine], Array]
) -> Rewrite | Rejection | None:
    constants: dict[int, DerivedConstant] = {}
    for index, affine in affines.items():
        old = float64_reader(node.inputs[index])()
        if np.isinf(old).any() and not np.all(affine.gain > 0):
            return Rejection(
                ReasonCode.GAIN_SIGN, node, "its constant is infinite, and only a positive gain leaves it as it is"
            )
        new = change(old, affine)
        if not np.all(new == old):
            constants[index] = replacement(node, index, "constant", _returning(new), new.shape)
    return Rewrite(node, constants) if constants else None


def _returning(array: Array) -> Callable[[], Array]:
    return lambda: array
