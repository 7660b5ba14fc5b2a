"""Pad: copies of the value at its border, or a constant."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir

from normfold.export.fold.affine import Affine, Array
from normfold.export.fold.edits import Change, Rewrite
from normfold.export.fold.plan import Step
from normfold.export.fold.rejection import Refusal, node_label
from normfold.export.graph.constants import Derived, constant_dtype, constant_tensor, exact, is_constant


def pull(node: ir.Node, wanted: Mapping[int, Affine]) -> Step | Refusal:
    """Pass; a constant c becomes g * c + h, if that is the same for all channels."""
    affine = wanted[0]
    change = _change(node, affine, lambda c: affine.gain * c + affine.offset)
    return change if isinstance(change, Refusal) else Step(pulls={0: affine}, change=change)


def push(node: ir.Node, missing: Mapping[int, Affine]) -> Step | Refusal:
    """Pass; a constant c becomes (c - h) / g, if that is the same for all channels and no gain is zero."""
    if set(missing) != {0}:
        return Refusal("indices", "it reads the value as its pads", node)
    affine = missing[0]
    if not np.all(affine.gain) and node.attributes.get_string("mode", "constant") == "constant":
        return Refusal("zero-gain", "a gain of zero would lose the constant that it pads with", node)
    change = _change(node, affine, lambda c: (c - affine.offset) / affine.gain)
    return change if isinstance(change, Refusal) else Step(pushes={0: affine}, change=change)


def _change(node: ir.Node, affine: Affine, new_constant: Callable[[float], Array]) -> Change | Refusal | None:
    """Return how the constant changes, or None where it does not, or is not used."""
    axes = _padded_axes(node, affine.rank)
    if isinstance(axes, Refusal):
        return axes
    if not axes:
        return None
    if affine.varies_along(axes):
        return Refusal("padded-axis", "the affine varies along an axis that it pads", node)
    if node.attributes.get_string("mode", "constant") != "constant":
        return None
    by_input = len(node.inputs) > 2 and node.inputs[2] is not None
    if by_input and not is_constant(node.inputs[2]):
        return Refusal("weights-not-constant", "the value that it pads with is computed", node)
    old = float(exact(node.inputs[2])().reshape(-1)[0]) if by_input else node.attributes.get_float("value", 0.0)
    values = new_constant(old)
    if not np.all(values == values.flat[0]):
        return Refusal("padding-not-uniform", "it pads all channels with one value, and each would need its own", node)
    new = float(values.flat[0])
    if new == old:
        return None
    if len(node.inputs) < 2 or node.inputs[1] is None:  # until opset 10 all are attributes
        return Rewrite(node, {}, attributes={"value": new})
    source = node.inputs[2] if by_input else node.inputs[0]
    dtype = constant_dtype(source) if by_input else source.dtype if source is not None else None
    if dtype is None:
        return Refusal("unknown-shape", "the dtype of its input is not known", node)
    name = source.name if by_input and source is not None and source.name else f"{node_label(node)}.constant"
    return Rewrite(node, {2: Derived(name, (), dtype, lambda: np.float64(new) * np.ones(()))})


def _padded_axes(node: ir.Node, rank: int) -> list[int] | Refusal:
    pads = node.attributes.get_ints("pads", None)
    axes: list[int] = list(range(rank))
    if pads is None:
        tensors = [constant_tensor(node.inputs[index]) if index < len(node.inputs) else None for index in (1, 3)]
        if tensors[0] is None or (len(node.inputs) > 3 and node.inputs[3] is not None and tensors[1] is None):
            return Refusal("computed-pads", "its pads are computed, not constant", node)
        pads = [int(pad) for pad in tensors[0].numpy()]
        if tensors[1] is not None:
            axes = [int(axis) % rank for axis in tensors[1].numpy()]
    return [axis for index, axis in enumerate(axes) if pads[index] or pads[index + len(axes)]]
