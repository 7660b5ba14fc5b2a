"""Several BatchNormalization nodes read one value: the layer before it absorbs one, the others compensate for it.

    before   y1 = g1 x + h1            y2 = g2 x + h2
    after    x' = g1 x + h1 = y1       y2 = (g2 / g1) x' + (h2 - (g2 / g1) h1)

One node less. The layer's output is rounded, and the others enlarge its rounding error by g2 / g1, so no fold of this
kind is made where that gain is large: see `MAX_GROWTH`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from normfold.export.fold.affine import Affine
from normfold.export.fold.batchnorm_parameters import BatchNorm, read_batchnorm
from normfold.export.fold.edits import Edit
from normfold.export.fold.operators import batchnorm
from normfold.export.fold.operators.table import OPERATORS
from normfold.export.fold.plan import Plan, Planner, Step
from normfold.export.fold.rejection import Rejection
from normfold.export.fold.report import Outcome
from normfold.export.fold.stages.apply_plan import apply_backward
from normfold.export.fold.state import FoldedNode, FoldState
from normfold.export.graph.editor import Editor
from normfold.export.graph.nodes import is_batchnorm, node_label, opset_of
from normfold.export.graph.shapes import rank_of

MAX_GROWTH = 8.0
"""How many times larger the rounding error of the layer's output may become, relative to how far the other
BatchNormalization's output lies from its mean in the same channel.

In float32 that is at most 8 * 2^-24 = 4.8e-7 of half a channel's range: less than half of what verification allows any
network, 1e-6 of the range."""

_DEVIATIONS = 3.0
"""Standard deviations around its mean within which a value lies, nearly always."""


@dataclass(frozen=True, eq=False)
class _SharedPlan:
    """A plan to fold one BatchNormalization backwards, and the edits of the others that read the same value."""

    backward: Plan
    compensations: Sequence[Edit]


def fold_one_of_several(state: FoldState, editor: Editor) -> bool:
    """Fold one of several BatchNormalization nodes that read one value of a graph into the layer before it.

    Requires: nothing folds otherwise.
    Ensures: one node less, or the graph as it was; `state` holds the outcome of the node that went.

    Returns:
        Whether there was one.
    """
    planner = Planner(OPERATORS, {node: index for index, node in enumerate(editor.graph)})
    for first, others in _candidates(editor.graph):
        plan = _plan(first, others, planner)
        if plan is not None:
            _apply(first.node, plan, state, editor)
            return True
    return False


def _candidates(graph: ir.Graph) -> Iterator[tuple[BatchNorm, list[BatchNorm]]]:
    """Yield a BatchNormalization that could be folded, and the others that read its input.

    Only where no other node and no caller reads that value. Of the nodes that read one value the one comes first whose
    removal enlarges the rounding error least; those that would enlarge it too much are left out.
    """
    for value in [node.inputs[0] for node in graph if is_batchnorm(node)]:
        if value is None or value.is_graph_output() or len(value.uses()) < 2:
            continue
        readers = [reader for reader, index in value.uses() if index == 0 and is_batchnorm(reader)]
        if len(readers) < len(value.uses()) or any(reader.graph is not graph for reader in readers):
            continue
        read = [read_batchnorm(reader, opset_of(reader)) for reader in readers]
        usable = [one for one in read if isinstance(one, BatchNorm)]
        if len(usable) == len(read) and len({one.scale.size for one in usable}) == 1:
            yield from _by_growth(usable)


def _plan(first: BatchNorm, others: Sequence[BatchNorm], planner: Planner) -> _SharedPlan | None:
    """Plan for the layer before to absorb `first`; the others read its output then. None if that cannot be.

    With a plan, the graph is changed: the others read what `first` gives out, which is right once the plan and the
    compensations are applied. Without one it is as it was.
    """
    value, rank = first.node.inputs[0], rank_of(first.node.inputs[0])
    if rank is None or rank < 2:
        return None
    affine = first.affine(rank)
    with np.errstate(divide="ignore"):
        inverse = 1 / affine.gain
    # Where the gain is zero, the others do not read the channel (`_growth`): any finite inverse serves.
    inverse = np.where(np.isfinite(inverse), inverse, 0.0)
    removed = Affine(inverse, -inverse * affine.offset)
    steps = [batchnorm.fold_forward(other.node, {0: removed}) for other in others]
    edits = [step.edit for step in steps if isinstance(step, Step) and step.edit is not None]
    if len(edits) < len(steps) or not all(constant.fits for edit in edits for constant in edit.new_constants):
        return None
    for other in others:
        other.node.replace_input_with(0, first.node.outputs[0])
    plan = planner.plan_backward(first.node, affine)
    if isinstance(plan, Rejection) or plan.overflow() is not None:
        for other in others:
            other.node.replace_input_with(0, value)
        return None
    return _SharedPlan(plan, edits)


def _apply(node: ir.Node, plan: _SharedPlan, state: FoldState, editor: Editor) -> None:
    """Carry a plan out, and record that the node was folded."""
    for edit in plan.compensations:
        edit.apply(editor)
    for changed in (*node.outputs, *plan.backward.required):
        state.output_values.pop(changed, None)
    state.output_values[apply_backward(node, 0, plan.backward, editor)] = node
    into = tuple(node_label(edit.node) for edit in plan.backward.edits)
    path = tuple(node_label(step) for step in plan.backward.path)
    state.folded[node] = FoldedNode(Outcome.FOLDED_BACK, into, path)


def _by_growth(batchnorms: Sequence[BatchNorm]) -> Iterator[tuple[BatchNorm, list[BatchNorm]]]:
    """Yield each as the one that goes, with the others, by how much rounding errors grow; not those above the limit."""
    found = []
    for first in batchnorms:
        others = [other for other in batchnorms if other is not first]
        found.append((max(_growth(first, other) for other in others), first, others))
    for growth, first, others in sorted(found, key=lambda one: one[0]):
        if growth <= MAX_GROWTH:
            yield first, others


def _growth(first: BatchNorm, other: BatchNorm) -> float:
    """Return how many times the rounding error of `first`'s output grows, relative to half the range of `other`'s.

    The largest value over the channels that `other` reads of

        |g2 / g1| (|g1 mean + h1| + 3 |g1| deviation) / (3 |g2| deviation)

    The first factor enlarges the error; the second is the largest value of the output that is rounded; the third is
    half the range of what is made of it. Each by the node's own statistics of the value that both read; by the other's,
    where its own were never measured.
    """
    mine = first if _is_measured(first) or not _is_measured(other) else other
    theirs = other if _is_measured(other) or not _is_measured(first) else first
    affine = first.affine(2)
    gain, offset = affine.gain.reshape(-1), affine.offset.reshape(-1)
    spread, spread_of_other = (_DEVIATIONS * np.sqrt(one.running_var + one.epsilon) for one in (mine, theirs))
    reads = other.scale != 0
    with np.errstate(divide="ignore", invalid="ignore"):
        extent = np.abs(mine.running_mean + offset / gain) + spread
        growth = (extent / spread_of_other)[reads]
    return float(np.max(growth, initial=0.0)) if np.isfinite(growth).all() else float("inf")


def _is_measured(one: BatchNorm) -> bool:
    """Return whether statistics differ between channels, as data's do; those of a new node are 0 and 1 throughout."""
    return bool(one.running_mean.any()) or len(set(one.running_var)) > 1
