"""Shapes of values as inference found them: a size is a number, a name, or None where nothing is known."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx
import onnx_ir as ir

from normfold.export.fold.affine import Affine, Array, constant_axes_dropped
from normfold.export.fold.rejection import Refusal
from normfold.export.onnx_io.strip_weights import without_weights

Sizes = tuple[int | str | None, ...]


def infer_shapes(model: ir.Model, afresh: bool = False) -> bool:
    """Infer shapes where values lack them, with data propagated, so that computed targets of Reshape count too.

    Args:
        model: gets types and shapes, in place.
        afresh: what the file says of values in between counts for nothing where it may be of other inputs: files are
            made dynamic by changing their inputs alone.

    Returns:
        Whether more is known than before.
    """
    values = {value.name: value for node in model.graph for value in node.outputs}
    if not afresh and all(value.shape is not None for value in values.values()):
        return False
    stated = not afresh or all(isinstance(size, int) for value in model.graph.inputs for size in _free_part(value))
    proto = without_weights(model)
    if afresh:
        del proto.graph.value_info[:]
    try:
        inferred = onnx.shape_inference.infer_shapes(proto, data_prop=True)
    except onnx.shape_inference.InferenceError:
        return False  # what is not known is kept, with that reason
    found = {info.name: info.type.tensor_type for info in (*inferred.graph.value_info, *inferred.graph.output)}
    learnt = False
    for name, value in values.items():
        kind = found.get(name or "")
        if not stated and not value.is_graph_output():
            value.shape = None
        if kind is None or not kind.HasField("shape"):
            continue
        sizes = [size.dim_value if size.HasField("dim_value") else size.dim_param or None for size in kind.shape.dim]
        old = sizes_of(value)
        if old is not None and len(old) == len(sizes):
            sizes = [new if isinstance(new, int) else known for new, known in zip(sizes, old, strict=True)]
        learnt |= old is None or tuple(sizes) != old
        value.shape = ir.Shape(sizes)
        if value.type is None:
            value.type = ir.TensorType(ir.DataType(kind.elem_type))
    return learnt


def _free_part(value: ir.Value) -> Sequence[int | ir.SymbolicDim]:
    """Return the sizes of an input behind its axis of rows."""
    return () if value.shape is None else tuple(value.shape)[1:]


def sizes_of(value: ir.Value | None) -> Sizes | None:
    """Return the sizes of a value's axes, or None if not even its rank is known."""
    if value is None or value.shape is None:
        return None
    return tuple(size if isinstance(size, int) else size.value for size in value.shape)


def rank_of(value: ir.Value | None) -> int | None:
    """Return the number of axes, or None if it is not known."""
    sizes = sizes_of(value)
    return None if sizes is None else len(sizes)


def static_size(value: ir.Value | None, axis: int) -> int | None:
    """Return the size of one axis, or None if it is not a known number."""
    sizes = sizes_of(value)
    if sizes is None or not -len(sizes) <= axis < len(sizes):
        return None
    size = sizes[axis]
    return size if isinstance(size, int) else None


def static_sizes(values: Sequence[ir.Value | None], axis: int) -> list[int] | None:
    """Return the sizes of several values along one axis, or None if one is not a known number."""
    sizes = [size for value in values if (size := static_size(value, axis)) is not None]
    return sizes if len(sizes) == len(values) else None


def broadcasts_into(constant: tuple[int, ...], sizes: Sizes | None) -> bool:
    """Whether a constant of this shape broadcasts into a value without enlarging it."""
    if sizes is None or len(constant) > len(sizes):
        return False
    return all(size in (1, other) for size, other in zip(reversed(constant), reversed(sizes), strict=False))


def reshaped(array: Array, before: Sizes, after: Sizes) -> Array | None:
    """Carry an array that broadcasts against a value through a Reshape of that value.

    Axes fall into groups, as small as can be, that hold the same elements before and after: matched from the front and
    from the back while sizes are equal, and by products between. Where the array is constant along a group it stays so;
    where it varies, the sizes of the group must be known.

    Args:
        array: of rank len(before), size 1 where constant.
        before: sizes of the value.
        after: sizes of the reshaped value.

    Returns:
        The array for the reshaped value, or None if the channel mixes with an axis of unknown size.
    """
    full: list[int] = []
    target: list[int] = []
    for old, new in _groups(before, after):
        if all(array.shape[axis] == 1 for axis in old):
            full += [1] * len(old)
            target += [1] * len(new)
            continue
        sizes = [before[axis] for axis in old], [after[axis] for axis in new]
        numbers = [[size for size in side if isinstance(size, int)] for side in sizes]
        if (len(numbers[0]), len(numbers[1])) != (len(old), len(new)) or math.prod(numbers[0]) != math.prod(numbers[1]):
            return None
        full += numbers[0]
        target += numbers[1]
    return constant_axes_dropped(np.broadcast_to(array, full).reshape(target))


def _groups(before: Sizes, after: Sizes) -> list[tuple[list[int], list[int]]]:
    """Return groups of axes that hold the same elements before and after, in order."""
    old, new = list(range(len(before))), list(range(len(after)))
    first = []
    while (group := _peel(before, after, old, new, end=0)) is not None:
        first.append(group)
    last = []
    while (group := _peel(before, after, old, new, end=-1)) is not None:
        last.append(group)
    return [*first, (old, new), *reversed(last)]


def _peel(before: Sizes, after: Sizes, old: list[int], new: list[int], end: int) -> tuple[list[int], list[int]] | None:
    """Take the smallest group off one end of both lists of axes; None if there is none that surely matches."""
    taken: tuple[list[int], list[int]] = ([], [])
    products = [1, 1]
    left = [list(old), list(new)]
    while not taken[0] or not taken[1] or products[0] != products[1]:
        side = 0 if not taken[0] or (taken[1] and products[0] < products[1]) else 1
        if not left[side]:
            return None
        axis = left[side].pop(end)
        size = (before, after)[side][axis]
        taken[side].insert(0 if end else len(taken[side]), axis)
        if isinstance(size, int):
            products[side] *= size
        elif size is not None and side == 0 and len(taken[0]) == 1 and left[1] and after[left[1][end]] == size:
            return _take(old, new, ([axis], [left[1][end]]))  # the same name on both sides
        else:
            return None
    return _take(old, new, taken)


def _take(old: list[int], new: list[int], taken: tuple[list[int], list[int]]) -> tuple[list[int], list[int]]:
    for axes, gone in zip((old, new), taken, strict=True):
        axes[:] = [axis for axis in axes if axis not in gone]
    return taken


def fits(affine: Affine, value: ir.Value | None) -> bool:
    """Whether an affine has the value's rank, and the value a known, full size wherever the affine varies."""
    sizes = sizes_of(value)
    if sizes is None or len(sizes) != affine.rank:
        return False
    return all(
        size in (1, own) for array in (affine.gain, affine.offset) for size, own in zip(array.shape, sizes, strict=True)
    )


def unknown_shape(node: ir.Node) -> Refusal:
    """Return the refusal for a node whose shapes inference did not find."""
    return Refusal("unknown-shape", "the shapes around it cannot be inferred", node)
