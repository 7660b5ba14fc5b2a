"""Resize and Upsample: every output is a weighted mean of inputs, the weights adding up to one."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from normfold.export.fold.affine import Affine
from normfold.export.fold.plan import Step
from normfold.export.fold.reason_codes import ReasonCode
from normfold.export.fold.rejection import Rejection, reject_unknown_shape
from normfold.export.graph.constants import constant_tensor
from normfold.export.graph.shapes import sizes_of


def fold_backward(node: ir.Node, required: Mapping[int, Affine]) -> Step | Rejection:
    """Pass, if the affine is constant along the resized axes."""
    return _reject(node, required[0]) or Step(backward={0: required[0]})


def fold_forward(node: ir.Node, removed: Mapping[int, Affine]) -> Step | Rejection:
    """Pass, likewise."""
    if set(removed) != {0}:
        return Rejection(ReasonCode.INDICES, node, "it reads the value as its scales or sizes")
    return _reject(node, removed[0]) or Step(forward={0: removed[0]})


def _reject(node: ir.Node, affine: Affine) -> Rejection | None:
    if node.attributes.get_string("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize":
        return Rejection(ReasonCode.EXTRAPOLATION, node, "it fills what lies outside with a value of its own")
    before, after = sizes_of(node.inputs[0]), sizes_of(node.outputs[0])
    if before is None or after is None:
        return reject_unknown_shape(node)
    if not affine.fits(node.inputs[0]) or not affine.fits(node.outputs[0]) or not _keeps(node, affine):
        return Rejection(ReasonCode.RESIZED_AXIS, node, "the affine varies along an axis that it resizes")
    return None


def _keeps(node: ir.Node, affine: Affine) -> bool:
    """Return whether the axes along which the affine varies are scaled by 1: another scale may keep a size and mix."""
    sizes = len(node.inputs) > 3 and node.inputs[3] is not None
    given = node.attributes.get_floats("scales", ())
    value = None if sizes or given else node.inputs[2 if len(node.inputs) > 2 else 1]
    tensor = constant_tensor(value)
    scales = [*given] if given or tensor is None else [float(scale) for scale in tensor.numpy()]
    axes = [axis % affine.rank for axis in node.attributes.get_ints("axes", tuple(range(affine.rank)))]
    by_axis = dict(zip(axes, scales, strict=False))
    return not affine.varies_along([axis for axis, scale in by_axis.items() if scale != 1])
