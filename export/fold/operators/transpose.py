"""Transpose: the axes in another order, and the affine's with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from normfold.export.fold.affine import Affine
from normfold.export.fold.plan import Step
from normfold.export.fold.rejection import Rejection


def fold_backward(node: ir.Node, required: Mapping[int, Affine]) -> Step | Rejection:
    """Pass, the arrays' axes put back."""
    order = _order(node, required[0].rank)
    return Step(backward={0: required[0].map(lambda array: array.transpose(np.argsort(order)))})


def fold_forward(node: ir.Node, removed: Mapping[int, Affine]) -> Step | Rejection:
    """Pass, the arrays' axes put in the node's order."""
    order = _order(node, removed[0].rank)
    return Step(forward={0: removed[0].map(lambda array: array.transpose(order))})


def _order(node: ir.Node, rank: int) -> Sequence[int]:
    return node.attributes.get_ints("perm") or range(rank)[::-1]
