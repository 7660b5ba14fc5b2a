"""Neg: -(g * x + h) is g * (-x) - h."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from normfold.export.fold.affine import Affine
from normfold.export.fold.plan import Step
from normfold.export.fold.rejection import Rejection


def fold_backward(node: ir.Node, required: Mapping[int, Affine]) -> Step | Rejection:
    """Pass, the offset with the other sign."""
    del node
    return Step(backward={0: Affine(required[0].gain, -required[0].offset)})


def fold_forward(node: ir.Node, removed: Mapping[int, Affine]) -> Step | Rejection:
    """Pass, the offset with the other sign."""
    del node
    return Step(forward={0: Affine(removed[0].gain, -removed[0].offset)})
