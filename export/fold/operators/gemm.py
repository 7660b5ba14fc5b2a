"""Gemm: Y = alpha * A' B' + beta * C, where A' and B' may be transposed and C broadcasts to Y or is absent."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir

from normfold.export.arrays import Array
from normfold.export.fold.affine import Affine
from normfold.export.fold.layer import Layer, along_axis, read_layer
from normfold.export.fold.plan import Step
from normfold.export.fold.rejection import Rejection, reject_not_per_channel, reject_read_as_weight


def fold_backward(node: ir.Node, required: Mapping[int, Affine]) -> Step | Rejection:
    """Absorb: with gain g and offset h per column of Y, B' columns times g and C' = (beta * C * g + h) / beta.

    With beta 0 or C absent, C' = h and beta 1.
    """
    layer = read_layer(node)
    if isinstance(layer, Rejection):
        return layer
    axis = _column_axis(node)
    columns = required[0].along(1, layer.weight_shape[axis])
    if columns is None:
        return reject_not_per_channel(node)
    gain, offset = columns
    return _absorb(
        layer,
        weight=lambda: layer.weight() * along_axis(gain, axis, 2),
        bias_gain=gain,
        added=(lambda: offset) if offset.any() else None,
    )


def fold_forward(node: ir.Node, removed: Mapping[int, Affine]) -> Step | Rejection:
    """Absorb: with gain g and offset h per column of A', B' rows times g and beta * C' = beta * C + alpha * h B'."""
    if set(removed) != {0}:
        return reject_read_as_weight(node)
    layer = read_layer(node)
    if isinstance(layer, Rejection):
        return layer
    axis = 1 - _column_axis(node)
    contracted = 0 if node.attributes.get_int("transA", 0) else 1
    rows = removed[0].along(contracted, layer.weight_shape[axis])
    if rows is None:
        return reject_not_per_channel(node)
    gain, offset = rows
    alpha = node.attributes.get_float("alpha", 1.0)
    return _absorb(
        layer,
        weight=lambda: layer.weight() * along_axis(gain, axis, 2),
        bias_gain=np.ones(layer.weight_shape[1 - axis]),
        added=(lambda: alpha * np.tensordot(offset, layer.weight(), (0, axis))) if offset.any() else None,
    )


def _column_axis(node: ir.Node) -> int:
    """Return the axis of B along which Y's columns lie."""
    return 0 if node.attributes.get_int("transB", 0) else 1


def _absorb(
    layer: Layer, weight: Callable[[], Array], bias_gain: Array, added: Callable[[], Array] | None
) -> Step | Rejection:
    """Rewrite so that beta * C' = beta * C * bias_gain + added, with arrays of shape (columns,) for the latter two."""
    beta = layer.node.attributes.get_float("beta", 1.0)
    old = layer.bias if beta != 0 else None
    if old is None:
        if added is None:
            return layer.rewritten(weight, bias=None)
        return layer.rewritten(weight, bias=(bias_gain.shape, added), attributes={"beta": 1.0})

    def bias() -> Array:
        scaled = old() * bias_gain
        return scaled if added is None else scaled + added() / beta

    # C broadcasts to (rows, columns); times a row of gains it needs all columns, and its own rows if it has any.
    shape = np.broadcast_shapes(layer.bias_shape, bias_gain.shape)
    return layer.rewritten(weight, bias=(shape, bias))
