"""ConstantOfShape: one value, everywhere; exporters join it to activations to fill up channels or positions."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from normfold.export.fold.affine import Affine
from normfold.export.fold.edits import Rewrite
from normfold.export.fold.plan import Step
from normfold.export.fold.reason_codes import ReasonCode
from normfold.export.fold.rejection import Rejection


def fold_backward(node: ir.Node, required: Mapping[int, Affine]) -> Step | Rejection:
    """Absorb: the value v becomes g * v + h, if that is the same everywhere."""
    attribute = node.attributes.get("value")
    old = attribute.as_tensor().numpy() if attribute is not None else np.zeros(1, np.float32)
    new = required[0].gain * old.astype(np.float64).reshape(-1)[0] + required[0].offset
    if not np.all(new == new.flat[0]):
        detail = "it fills all channels with one value, and each would need its own"
        return Rejection(ReasonCode.PADDING_NOT_UNIFORM, node, detail)
    filled = ir.Tensor(np.full(1, new.flat[0]).astype(old.dtype), name="value")
    return Step(edit=Rewrite(node, {}, copied={"value": ir.AttrTensor("value", filled)}))


def fold_forward(node: ir.Node, removed: Mapping[int, Affine]) -> Step | Rejection:
    """Reject: it reads a shape."""
    del removed
    return Rejection(ReasonCode.INDICES, node, "it reads the value as a shape")
