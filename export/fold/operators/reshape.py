"""Reshape, Flatten, Squeeze and Unsqueeze: the same elements in the same order, under other axes.

What they make of an affine follows from the shapes alone, however the target shape was computed.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from normfold.export.fold.affine import Affine
from normfold.export.fold.plan import Step
from normfold.export.fold.rejection import Refusal
from normfold.export.graph.shapes import Sizes, reshaped, sizes_of, unknown_shape


def pull(node: ir.Node, wanted: Mapping[int, Affine]) -> Step | Refusal:
    """Pass, the arrays shaped as the input is."""
    affine = _carry(node, wanted[0], sizes_of(node.outputs[0]), sizes_of(node.inputs[0]))
    return affine if isinstance(affine, Refusal) else Step(pulls={0: affine})


def push(node: ir.Node, missing: Mapping[int, Affine]) -> Step | Refusal:
    """Pass, the arrays shaped as the output is."""
    affine = _carry(node, missing[0], sizes_of(node.inputs[0]), sizes_of(node.outputs[0]))
    return affine if isinstance(affine, Refusal) else Step(pushes={0: affine})


def _carry(node: ir.Node, affine: Affine, before: Sizes | None, after: Sizes | None) -> Affine | Refusal:
    if before is None or after is None or len(before) != affine.rank:
        return unknown_shape(node)
    gain, offset = (reshaped(array, before, after) for array in (affine.gain, affine.offset))
    if gain is None or offset is None:
        return Refusal("mixed-axes", "it mixes the channels with an axis of unknown size", node)
    return Affine(gain, offset)
