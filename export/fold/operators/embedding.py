"""Gather: rows of a constant table, as Embedding has it, or elements of a value (see `select`)."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from normfold.export.arrays import Array
from normfold.export.fold.affine import Affine
from normfold.export.fold.edits import Rewrite, replacement
from normfold.export.fold.operators import select
from normfold.export.fold.plan import Step
from normfold.export.fold.reason_codes import ReasonCode
from normfold.export.fold.rejection import Rejection, reject_not_per_channel, reject_unknown_shape
from normfold.export.graph.constants import constant_shape, float64_reader, is_constant
from normfold.export.graph.nodes import node_label
from normfold.export.graph.shapes import rank_of


def fold_backward(node: ir.Node, required: Mapping[int, Affine]) -> Step | Rejection:
    """Absorb into the table: T' = g * T + h, where nothing else reads it and the affine is the same for every index.

    A table that another node reads too, as a tied output layer does, stays: two of them would take twice the memory.
    """
    table = node.inputs[0]
    if table is None or not is_constant(table):
        return select.fold_backward(node, required)
    affine, rank = required[0], rank_of(node.inputs[1])
    shape = constant_shape(table)
    axis = node.attributes.get_int("axis", 0) % max(len(shape), 1)
    if rank is None or affine.rank != len(shape) - 1 + rank:
        return reject_unknown_shape(node)
    if affine.varies_along(range(axis, axis + rank)):
        return reject_not_per_channel(node)
    other = next((reader for reader, index in table.uses() if (reader, index) != (node, 0)), None)
    if other is not None or table.is_graph_output():
        reader = "the caller" if other is None else f"{other.op_type} {node_label(other)!r}"
        return Rejection(ReasonCode.OTHER_READERS, node, f"its table {table.name!r} is also read by {reader}")

    def of_table(array: Array) -> Array:
        return array.reshape(*array.shape[:axis], 1, *array.shape[axis + rank :])

    read, gain, offset = float64_reader(table), of_table(affine.gain), of_table(affine.offset)
    return Step(edit=Rewrite(node, {0: replacement(node, 0, "table", lambda: read() * gain + offset)}))


def fold_forward(node: ir.Node, removed: Mapping[int, Affine]) -> Step | Rejection:
    """Pass, as `select` does: a table has no affine that could be removed, and indices take none."""
    return select.fold_forward(node, removed)
