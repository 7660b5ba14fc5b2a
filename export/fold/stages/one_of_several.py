"""Several nodes read one value: the layer before it absorbs one BatchNormalization, the others compensate for it.

    before   y1 = g1 x + h1            y2 = f(x)                    f another BatchNormalization, a Conv, a Concat …
    after    x' = g1 x + h1 = y1       y2 = f(x' / g1 - h1 / g1)    which f, or what reads it, takes into its weights

One node less, as in DenseNet's transitions, whose output the first BatchNormalization of the next block reads, and all
of its concatenations. The layer's output is rounded, and 1 / g1 enlarges its rounding error, so no fold of this kind is
made where that is much: see `MAX_GROWTH`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from normfold.export.fold.affine import Affine
from normfold.export.fold.batchnorm_parameters import BatchNorm, read_batchnorm
from normfold.export.fold.operators.table import OPERATORS
from normfold.export.fold.plan import Plan, Planner
from normfold.export.fold.report import Outcome
from normfold.export.fold.stages.apply_plan import apply_backward, apply_forward
from normfold.export.fold.state import FoldedNode, FoldState
from normfold.export.graph.editor import Editor
from normfold.export.graph.nodes import is_batchnorm, node_label, opset_of
from normfold.export.graph.shapes import rank_of

MAX_GROWTH = 4.0
"""How many times larger the rounding error of the layer's output may become, relative to half the range of a channel.

In float32 that is at most 4 * 2^-24 = 2.4e-7 of half the range: less than a quarter of what verification allows any
network, 1e-6 of the range: the running statistics may be wider than those of the data."""

_DEVIATIONS = 3.0
"""Standard deviations around its mean within which a value lies, nearly always."""


@dataclass(frozen=True, eq=False)
class _Plans:
    """Plans for the layer before a BatchNormalization, and for the other readers of its input.

    `inverse` is a node between the BatchNormalization and the other readers, which stands for the inverse affine.
    """

    backward: Plan
    forward: Plan
    inverse: ir.Node


def fold_one_of_several(state: FoldState, editor: Editor) -> bool:
    """Fold a BatchNormalization into the layer before it, though other nodes read that layer's output too.

    Requires: nothing folds otherwise.
    Ensures: one node less, or the graph as it was; `state` holds the outcome of the node that went.

    Returns:
        Whether there was one.
    """
    for batchnorm in _candidates(editor.graph):
        plans = _plan(batchnorm, editor.graph)
        if plans is not None:
            _apply(batchnorm.node, plans, state, editor)
            return True
    return False


def _candidates(graph: ir.Graph) -> Iterator[BatchNorm]:
    """Yield each BatchNormalization whose input others read too, and whose gains allow it; the best ones first."""
    found = []
    for node in graph:
        value = node.inputs[0] if is_batchnorm(node) else None
        if value is None or value.is_graph_output() or len(value.uses()) < 2:
            continue
        read = read_batchnorm(node, opset_of(node))
        if isinstance(read, BatchNorm) and all(reader.graph is graph for reader, _ in value.uses()):
            found.append((_growth(read), read))
    for growth, read in sorted(found, key=lambda pair: pair[0]):
        if growth <= MAX_GROWTH:
            yield read


def _growth(one: BatchNorm) -> float:
    """Return how many times the rounding error of a layer's output grows, if the layer absorbs a BatchNormalization.

    The largest value over the channels of  |1 / g| (|g mean + h| + 3 |g| deviation) / (3 deviation):  the output is
    rounded in proportion to its largest value, the second factor; the inverse gain enlarges that; and half the range of
    what the others read is 3 deviations. All by the node's own statistics.
    """
    affine = one.affine(2)
    gain, offset = affine.gain.reshape(-1), affine.offset.reshape(-1)
    spread = _DEVIATIONS * np.sqrt(one.running_var + one.epsilon)
    with np.errstate(divide="ignore", invalid="ignore"):
        growth = (np.abs(one.running_mean + offset / gain) + spread) / spread
    return float(np.max(growth)) if np.isfinite(growth).all() else float("inf")


def _plan(batchnorm: BatchNorm, graph: ir.Graph) -> _Plans | None:
    """Plan for the layer before to absorb a BatchNormalization, and for the others to compensate; None if they cannot.

    With plans, the others read the BatchNormalization's output, behind a node for the inverse affine, which is right
    once both plans are applied. Without, the graph is as it was.
    """
    node, value = batchnorm.node, batchnorm.node.inputs[0]
    rank = rank_of(value)
    if value is None or rank is None or rank < 2:
        return None
    affine = batchnorm.affine(rank)
    inverse = ir.Node("", "Identity", [node.outputs[0]])
    inverse.outputs[0].shape, inverse.outputs[0].type = value.shape, value.type
    others = [(reader, index) for reader, index in value.uses() if reader is not node]
    positions = {each: place for place, each in enumerate(graph)}
    planner = Planner(OPERATORS, positions | {inverse: positions[node]})
    graph.insert_after(node, inverse)
    for reader, index in others:
        reader.replace_input_with(index, inverse.outputs[0])
    forward = planner.plan_forward(inverse, Affine(1 / affine.gain, -affine.offset / affine.gain))
    backward = planner.plan_backward(node, affine) if isinstance(forward, Plan) else None
    if isinstance(forward, Plan) and isinstance(backward, Plan) and forward.is_no_slower(node):
        overflow = forward.overflow() or backward.overflow()
        if overflow is None:
            return _Plans(backward, forward, inverse)
    for reader, index in others:
        reader.replace_input_with(index, value)
    graph.remove(inverse, safe=True)
    return None


def _apply(node: ir.Node, plans: _Plans, state: FoldState, editor: Editor) -> None:
    """Carry both plans out, and record that the node was folded."""
    for changed in (*node.outputs, *plans.backward.required, *plans.forward.removed):
        state.output_values.pop(changed, None)
    apply_forward(plans.inverse, 0, plans.forward, editor)
    state.output_values[apply_backward(node, 0, plans.backward, editor)] = node
    into = tuple(node_label(edit.node) for edit in plans.backward.edits)
    path = tuple(node_label(step) for step in plans.backward.path)
    state.folded[node] = FoldedNode(Outcome.FOLDED_BACK, into, path)
