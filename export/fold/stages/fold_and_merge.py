"""The stage that folds every affine and merges linear layers, until neither finds anything."""

from __future__ import annotations

import onnx_ir as ir

from normfold.export.fold.affine import Affine
from normfold.export.fold.batchnorm_parameters import read_batchnorm
from normfold.export.fold.elementwise import (
    ELEMENTWISE_OPS,
    constant_operand,
    is_layernorm_affine,
    read_elementwise,
)
from normfold.export.fold.merge.branches import merge_branches
from normfold.export.fold.merge.sequence import merge_sequences
from normfold.export.fold.operators.table import OPERATORS
from normfold.export.fold.plan import Plan, Planner
from normfold.export.fold.reason_codes import ReasonCode
from normfold.export.fold.rejection import Rejection
from normfold.export.fold.report import Outcome
from normfold.export.fold.stages.apply_plan import apply_backward, apply_forward
from normfold.export.fold.state import FoldedNode, FoldState
from normfold.export.graph.editor import Editor
from normfold.export.graph.nodes import is_batchnorm, node_label, opset_of
from normfold.export.graph.shapes import rank_of


def fold_and_merge(state: FoldState) -> bool:
    """Fold affines into their neighbours, merge layers unless the options say otherwise, and begin again.

    Each BatchNormalization, and each Mul, Add, Sub or Div by a constant vector, is tried backwards first (the layer
    before it absorbs the affine), then forwards. BatchNormalization goes first: a Mul or Add after a layer may be what
    absorbs it.

    Requires: shapes inferred, constants computed, no unused nodes.
    Ensures: nothing folds or merges any more; every value that keeps its name is what it was, within rounding; no node
        is added. `state.folded` and `state.rejections` hold the outcome of each BatchNormalization that was read.
    """
    folder = _FoldPass(state)
    changed = folder.fold()
    while state.options.merging and folder.merge():
        folder.fold()
        changed = True
    return changed


class _FoldPass:
    """Folds and merges in the graph of a state, and records in the state the outcome for each node."""

    def __init__(self, state: FoldState) -> None:
        self._state = state
        self._graph = state.model.graph
        self._scalars = state.report.input.nodes if state.report.input is not None else ()
        self._editor = Editor(self._graph)
        for node in self._graph.all_nodes():
            if is_batchnorm(node):
                state.output_values[node.outputs[0]] = node

    def fold(self) -> bool:
        """Walk over the affine nodes, again over those that stayed, until nothing folds; return whether any did."""
        self._planner = Planner(OPERATORS, {node: index for index, node in enumerate(self._graph)})
        batchnorms = [node for node in self._graph.all_nodes() if is_batchnorm(node)]
        others = [node for node in self._graph if constant_operand(node) is not None]
        first = len(batchnorms), len(others)
        before = (-1, -1)
        while (left := (len(batchnorms), len(others))) != before:
            before = left
            self._state.progress(f"folding: {first[0] - left[0]} of {first[0]} BatchNormalization nodes")
            batchnorms = [node for node in batchnorms if not self._fold(node)]
            others = [node for node in others if not self._fold(node)]
        return left != first

    def merge(self) -> bool:
        """Merge layers in a row and parallel branches; return whether there were any."""
        pairs = merge_sequences(self._editor)
        for _, gone in pairs:
            self._forget_outputs(gone)
        merges = merge_branches(self._editor)
        for merged in merges:
            into = (node_label(merged.into),)
            self._forget_outputs(merged.into)
            for node in merged.gone:
                self._state.folded[node] = FoldedNode(Outcome.MERGED, into, into)
                self._forget_outputs(node)
                self._state.report.affines += node.op_type in ELEMENTWISE_OPS
        return bool(merges or pairs)

    def _fold(self, node: ir.Node) -> bool:
        """Fold one node backwards, or else forwards, or note why not."""
        target = self._read(node)
        if target is None:
            return False
        if isinstance(target, Rejection):
            self._state.rejections[node] = (target,)
            return False
        index, affine = target
        if affine.is_identity and self._bypass(node, index):
            return True
        backward = _without_overflow(self._planner.plan_backward(node, affine, index))
        if isinstance(backward, Plan):
            self._forget_outputs(node, backward)
            value = apply_backward(node, index, backward, self._editor)
            if is_batchnorm(node):
                self._state.output_values[value] = node
            return self._note(node, Outcome.FOLDED_BACK, backward)
        if not is_batchnorm(node) and is_layernorm_affine(node):
            return False
        forward = self._planner.plan_forward(node, affine)
        if isinstance(forward, Plan) and not forward.is_no_slower(node):
            detail = "the constants that its readers would absorb are larger than the bytes that it moves"
            forward = Rejection(ReasonCode.COST, node, detail)
        forward = _without_overflow(forward)
        if isinstance(forward, Plan):
            self._forget_outputs(node, forward)
            apply_forward(node, index, forward, self._editor)
            return self._note(node, Outcome.FOLDED_FORWARD, forward)
        self._state.rejections[node] = (backward, forward)
        return False

    def _bypass(self, node: ir.Node, index: int) -> bool:
        """Remove a node that does nothing, unless it hands an input of the graph, or an output, on to the caller."""
        source, result = node.inputs[index], node.outputs[0]
        assert source is not None  # it was read as an affine of this input
        if result.is_graph_output() and (source.producer() is None or source.is_graph_output()):
            return False
        self._forget_outputs(node)
        if result.is_graph_output():
            source.name = result.name
        self._editor.bypass(node, source)
        return self._note(node, Outcome.FOLDED_BACK, Plan())

    def _read(self, node: ir.Node) -> tuple[int, Affine] | Rejection | None:
        """Return the input that a node is an affine of, and the affine; None for arithmetic that is none."""
        if not is_batchnorm(node):
            read = read_elementwise(node, scalars=node in self._scalars)
            return None if read is None else (list(node.inputs).index(read.source), read.affine)
        if node.graph is not self._graph:
            return Rejection(ReasonCode.SUBGRAPH, node, "it stands in the subgraph of a control flow node")
        batchnorm = read_batchnorm(node, opset_of(node))
        if isinstance(batchnorm, Rejection):
            return batchnorm
        rank = rank_of(node.inputs[0]) or rank_of(node.outputs[0])
        if rank is None or rank < 2:
            detail = "its input has no channel axis, or a rank that cannot be inferred"
            return Rejection(ReasonCode.UNKNOWN_SHAPE, node, detail)
        return 0, batchnorm.affine(rank)

    def _note(self, node: ir.Node, outcome: Outcome, plan: Plan) -> bool:
        composed = plan.edits and all(_is_affine(edit.node) for edit in plan.edits)
        into = tuple(node_label(edit.node) for edit in plan.edits)
        path = tuple(node_label(step) for step in plan.path)
        self._state.folded[node] = FoldedNode(Outcome.COMPOSED if composed else outcome, into, path)
        self._state.report.affines += not is_batchnorm(node)
        return True

    def _forget_outputs(self, node: ir.Node, plan: Plan | None = None) -> None:
        """Forget that values hold what a BatchNormalization gave out: those of a node that goes, and of its plan."""
        changed = () if plan is None else (*plan.required, *plan.removed)
        for value in (*node.outputs, *changed):
            self._state.output_values.pop(value, None)


def _without_overflow(plan: Plan | Rejection) -> Plan | Rejection:
    """Return the plan, or the rejection of one that makes a constant too large for float16."""
    return plan.overflow() or plan if isinstance(plan, Plan) else plan


def _is_affine(node: ir.Node) -> bool:
    return is_batchnorm(node) or node.op_type in ELEMENTWISE_OPS
