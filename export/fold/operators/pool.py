"""AveragePool and GlobalAveragePool: means over windows of the spatial axes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import onnx_ir as ir

from normfold.export.fold.affine import Affine
from normfold.export.fold.plan import Step
from normfold.export.fold.reason_codes import ReasonCode
from normfold.export.fold.rejection import Rejection, reject_not_per_channel


def fold_backward(node: ir.Node, required: Mapping[int, Affine]) -> Step | Rejection:
    """Pass: a mean of g * x + h is g times the mean, plus h."""
    return _reject(node, required[0]) or Step(backward={0: required[0]})


def fold_forward(node: ir.Node, removed: Mapping[int, Affine]) -> Step | Rejection:
    """Pass, likewise; of an offset that varies over the positions its mean, where all of them are one window."""
    affine = removed[0]
    if node.op_type == "GlobalAveragePool":
        affine = mean_offset(affine, range(2, affine.rank))
    return _reject(node, affine) or Step(forward={0: affine})


def mean_offset(affine: Affine, axes: Iterable[int]) -> Affine:
    """Return what a mean over some axes leaves of an affine: the offset's mean; the gain must not vary there."""
    return Affine(affine.gain, affine.offset.mean(tuple(axes), keepdims=True))


def _reject(node: ir.Node, affine: Affine) -> Rejection | None:
    """Reject an affine that varies within a window, and an offset where a window counts zeros of the padding."""
    if affine.varies_along(range(2, affine.rank)):
        return reject_not_per_channel(node)
    if affine.has_offset and node.op_type == "AveragePool" and _counts_padding(node):
        return Rejection(
            ReasonCode.ZERO_PADDING, node, "it counts its zero padding, to which the offset would not be added"
        )
    return None


def _counts_padding(node: ir.Node) -> bool:
    if not node.attributes.get_int("count_include_pad", 0):
        return False
    pads = any(node.attributes.get_ints("pads", ()))
    return pads or node.attributes.get_string("auto_pad", "NOTSET") not in ("NOTSET", "VALID") or _rounds_up(node)


def _rounds_up(node: ir.Node) -> bool:
    """Return whether the last windows may reach beyond the input, which runtimes count in different ways."""
    return bool(node.attributes.get_int("ceil_mode", 0))
