"""RoiAlign, MaxRoiPool and GridSample: values of a picture at positions that another input gives.

Each output is a weighted mean of pixels, the weights adding up to one (those of cubic interpolation too), or a maximum
over some. A position beyond the border counts as zero, unless GridSample repeats the border or reflects: there an
offset would be missing.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from normfold.export.fold.affine import Affine
from normfold.export.fold.plan import Step
from normfold.export.fold.reason_codes import ReasonCode
from normfold.export.fold.rejection import Rejection, reject_not_per_channel


def fold_backward(node: ir.Node, required: Mapping[int, Affine]) -> Step | Rejection:
    """Pass to the picture: a gain; an offset too where nothing beyond the border counts as zero."""
    return _reject(node, required[0]) or Step(backward={0: required[0]})


def fold_forward(node: ir.Node, removed: Mapping[int, Affine]) -> Step | Rejection:
    """Pass, likewise."""
    if set(removed) != {0}:
        return Rejection(ReasonCode.INDICES, node, "it reads the value as the positions that it takes")
    return _reject(node, removed[0]) or Step(forward={0: removed[0]})


def _reject(node: ir.Node, affine: Affine) -> Rejection | None:
    # GridSample keeps the rows of the batch; the others take each region from the row that an index names.
    kept = (0, 1) if node.op_type == "GridSample" else (1,)
    if affine.varies_along([axis for axis in range(affine.rank) if axis not in kept]):
        return reject_not_per_channel(node)
    if affine.has_offset and _reads_zeros(node):
        detail = "it reads zeros beyond the border, to which the offset would not be added"
        return Rejection(ReasonCode.ZERO_PADDING, node, detail)
    if _takes_maximum(node) and not np.all(affine.gain >= 0):
        return Rejection(ReasonCode.GAIN_SIGN, node, "a negative gain turns its maximum into something else")
    return None


def _reads_zeros(node: ir.Node) -> bool:
    return node.op_type != "GridSample" or node.attributes.get_string("padding_mode", "zeros") == "zeros"


def _takes_maximum(node: ir.Node) -> bool:
    return node.op_type == "MaxRoiPool" or (
        node.op_type == "RoiAlign" and node.attributes.get_string("mode", "avg") == "max"
    )
