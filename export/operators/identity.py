"""Operators that hand their input on as it is: Identity, and Dropout at inference."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from export.affine import Affine
from export.constants import constant_tensor
from export.plan import Step
from export.refusal import Refusal


def pull(node: ir.Node, wanted: Mapping[int, Affine]) -> Step | Refusal:
    """Pass."""
    return _refuse(node) or Step(pulls={0: wanted[0]})


def push(node: ir.Node, missing: Mapping[int, Affine]) -> Step | Refusal:
    """Pass."""
    return _refuse(node) or Step(pushes={0: missing[0]})


def _refuse(node: ir.Node) -> Refusal | None:
    """Refuse a Dropout that may drop: from opset 12 on, one whose training_mode is not a constant false."""
    training_mode = node.inputs[2] if len(node.inputs) > 2 else None
    if training_mode is None:
        return None
    tensor = constant_tensor(training_mode)
    if tensor is None or tensor.numpy().any():
        return Refusal("training-mode", "it may drop values", node)
    return None
