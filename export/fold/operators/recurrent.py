"""LSTM, GRU and RNN: gates of X W' + Wb + H R' + Rb, for one direction or two, in either layout."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from normfold.export.arrays import Array
from normfold.export.fold.affine import Affine
from normfold.export.fold.layer import along_axis, read_layer
from normfold.export.fold.plan import Step
from normfold.export.fold.reason_codes import ReasonCode
from normfold.export.fold.rejection import Rejection, reject_not_per_channel, reject_read_as_weight

_BIAS = 3
_ROLES = {4: "the lengths of its sequences", 5: "its first hidden state", 6: "its first cell state"}


def fold_backward(node: ir.Node, required: Mapping[int, Affine]) -> Step | Rejection:
    """Reject: what it gives out comes from gates, and is what its next step reads."""
    del required
    return Rejection(ReasonCode.NON_LINEAR, node, "its gates are not linear, and its next step reads what it gives out")


def fold_forward(node: ir.Node, removed: Mapping[int, Affine]) -> Step | Rejection:
    """Absorb: with gain g and offset h per feature, W' = W * g and Wb' = Wb + sum(W * h), for each direction and gate.

    W is (directions, gates * hidden, features), B is (directions, 2 * gates * hidden), Wb before Rb. Wb is added to
    X W' in every gate, also where linear_before_reset gives Rb another place. Steps behind the end of a sequence, by
    sequence_lens, are not read, so their missing affine does not matter.

    Source: ONNX LSTM, GRU and RNN, opset 7 to 22.
    """
    for index in removed:
        if index in _ROLES:
            return Rejection(ReasonCode.OPERATOR, node, f"it reads the value as {_ROLES[index]}")
        if index != 0:
            return reject_read_as_weight(node)
    layer = read_layer(node, _BIAS, output_axis=1)
    if isinstance(layer, Rejection):
        return layer
    directions, rows, features = layer.weight_shape
    vectors = removed[0].along(2, features) if removed[0].rank == 3 else None
    if vectors is None:
        return reject_not_per_channel(node)
    gain, offset = vectors

    def bias() -> Array:
        added = layer.weight() @ offset
        own = np.zeros((directions, 2 * rows)) if layer.bias is None else layer.bias()
        return np.concatenate([own[:, :rows] + added, own[:, rows:]], axis=1)

    return layer.rewritten(along_axis(gain, 2, 3), ((directions, 2 * rows), bias) if offset.any() else None)
