"""Operators that hand their input on as it is: Identity, Dropout at inference, Cast from float to float."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from normfold.export.fold.affine import Affine
from normfold.export.fold.plan import Step
from normfold.export.fold.reason_codes import ReasonCode
from normfold.export.fold.rejection import Rejection
from normfold.export.graph.constants import FLOATS, constant_tensor


def fold_backward(node: ir.Node, required: Mapping[int, Affine]) -> Step | Rejection:
    """Pass."""
    return _reject(node) or Step(backward={0: required[0]})


def fold_forward(node: ir.Node, removed: Mapping[int, Affine]) -> Step | Rejection:
    """Pass."""
    return _reject(node) or Step(forward={0: removed[0]})


def _reject(node: ir.Node) -> Rejection | None:
    """Reject a Dropout that may drop (whose training_mode is not a constant false), or a Cast of integers."""
    if node.op_type == "Cast":
        dtypes = {value.dtype for value in (node.inputs[0], node.outputs[0]) if value is not None}
        return (
            None
            if dtypes <= FLOATS
            else Rejection(ReasonCode.NON_LINEAR, node, "it casts from or to a type that is not a float")
        )
    training_mode = node.inputs[2] if len(node.inputs) > 2 else None
    if training_mode is None:
        return None
    tensor = constant_tensor(training_mode)
    if tensor is None or tensor.numpy().any():
        return Rejection(ReasonCode.TRAINING_MODE, node, "it may drop values")
    return None
