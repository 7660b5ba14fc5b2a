"""Fold the affines of one graph: each into the layers before it, or else into those after it."""

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
from normfold.export.fold.operators.table import OPERATORS
from normfold.export.fold.plan import Plan, Planner
from normfold.export.fold.reason_codes import ReasonCode
from normfold.export.fold.rejection import Rejection
from normfold.export.fold.report import Outcome
from normfold.export.fold.stages.apply_plan import apply_backward, apply_forward
from normfold.export.fold.state import FoldedNode, FoldState
from normfold.export.graph.editor import Editor
from normfold.export.graph.nodes import is_batchnorm, node_label, opset_of, sole_reader
from normfold.export.graph.shapes import rank_of


def fold_affines(state: FoldState, editor: Editor) -> bool:
    """Fold every affine of a graph that a neighbour can absorb; record in the state the outcome for each.

    Each BatchNormalization, and each Mul, Add, Sub or Div by a constant vector, is tried backwards first (the layer
    before it absorbs the affine), then forwards. BatchNormalization goes first: a Mul or Add after a layer may be what
    absorbs it. Where that would leave a Mul and an Add in the place of one BatchNormalization, they are tried first.

    Returns:
        Whether any was folded.
    """
    return _AffineFolder(state, editor).fold()


class _AffineFolder:
    """Folds the affines of one graph."""

    def __init__(self, state: FoldState, editor: Editor) -> None:
        self._state = state
        self._editor = editor
        self._scalars = state.report.input.nodes if state.report.input is not None else ()
        self._planner = Planner(OPERATORS, {node: index for index, node in enumerate(editor.graph)})
        self._deferred: set[ir.Node] = set()

    def fold(self) -> bool:
        """Walk over the affine nodes, again over those that stayed, until nothing folds; return whether any did."""
        batchnorms = [node for node in self._editor.graph if is_batchnorm(node)]
        others = [node for node in self._editor.graph if constant_operand(node) is not None]
        first = left = len(batchnorms), len(others)
        while True:
            self._state.progress(f"folding: {first[0] - left[0]} of {first[0]} BatchNormalization nodes")
            batchnorms = [node for node in batchnorms if not self._fold(node)]
            others = [node for node in others if not self._fold(node)]
            if left == (left := (len(batchnorms), len(others))):
                batchnorms = [node for node in batchnorms if not self._fold_deferred(node)]
                if left == (left := (len(batchnorms), len(others))):
                    return left != first

    def _fold_deferred(self, node: ir.Node) -> bool:
        """Fold a BatchNormalization into a Mul and an Add which it could not absorb itself."""
        return node in self._deferred and self._fold(node, may_defer=False)

    def _fold(self, node: ir.Node, may_defer: bool = True) -> bool:
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
            if may_defer and self._defers(node, backward):
                return False
            self._state.forget_outputs(node, backward)
            value = apply_backward(node, index, backward, self._editor)
            if is_batchnorm(node):
                self._state.output_values[value] = node
            return self._note(node, Outcome.FOLDED_BACK, backward)
        if not is_batchnorm(node) and not self._may_fold_forward(node):
            return False
        forward = self._planner.plan_forward(node, affine)
        if isinstance(forward, Plan) and not forward.is_no_slower(node):
            detail = "the constants that its readers would absorb are larger than the bytes that it moves"
            forward = Rejection(ReasonCode.COST, node, detail)
        forward = _without_overflow(forward)
        if isinstance(forward, Plan):
            if may_defer and self._defers(node, forward):
                return False
            self._state.forget_outputs(node, forward)
            apply_forward(node, index, forward, self._editor)
            return self._note(node, Outcome.FOLDED_FORWARD, forward)
        self._state.rejections[node] = (backward, forward)
        return False

    def _defers(self, node: ir.Node, plan: Plan) -> bool:
        """Return whether a plan for a BatchNormalization only changes a Mul and an Add, which it may absorb instead."""
        defers = is_batchnorm(node) and len(plan.edits) > 1 and all(_is_elementwise(edit.node) for edit in plan.edits)
        if defers:
            self._deferred.add(node)
        return defers

    def _may_fold_forward(self, node: ir.Node) -> bool:
        """Return whether a Mul, Add, Sub or Div may go into what reads it: not one that runtimes recognise."""
        is_vector = node in self._scalars or read_elementwise(node) is not None
        return is_vector and not is_layernorm_affine(node)

    def _bypass(self, node: ir.Node, index: int) -> bool:
        """Remove a node that does nothing, unless it hands an input of the graph, or an output, on to the caller.

        A value from outside a body is like an input of it.
        """
        source, result = node.inputs[index], node.outputs[0]
        assert source is not None  # it was read as an affine of this input
        producer = source.producer()
        is_own = producer is not None and producer.graph is node.graph
        if result.is_graph_output() and (not is_own or source.is_graph_output()):
            return False
        self._state.forget_outputs(node)
        if result.is_graph_output():
            source.name = result.name
        self._editor.bypass(node, source)
        return self._note(node, Outcome.FOLDED_BACK, Plan())

    def _read(self, node: ir.Node) -> tuple[int, Affine] | Rejection | None:
        """Return the input that a node is an affine of, and the affine; None for arithmetic that is none."""
        if not is_batchnorm(node):
            read = read_elementwise(node, scalars=node in self._scalars or _follows_batchnorm(node))
            return None if read is None else (list(node.inputs).index(read.source), read.affine)
        batchnorm = read_batchnorm(node, opset_of(node))
        if isinstance(batchnorm, Rejection):
            return batchnorm
        rank = rank_of(node.inputs[0]) or rank_of(node.outputs[0])
        if rank is None or rank < 2:
            detail = "its input has no channel axis, or a rank that cannot be inferred"
            return Rejection(ReasonCode.UNKNOWN_SHAPE, node, detail)
        return 0, batchnorm.affine(rank)

    def _note(self, node: ir.Node, outcome: Outcome, plan: Plan) -> bool:
        composed = plan.edits and all(is_batchnorm(edit.node) or _is_elementwise(edit.node) for edit in plan.edits)
        into = tuple(node_label(edit.node) for edit in plan.edits)
        path = tuple(node_label(step) for step in plan.path)
        self._state.folded[node] = FoldedNode(Outcome.COMPOSED if composed else outcome, into, path)
        self._state.report.affines += not is_batchnorm(node)
        return True


def _without_overflow(plan: Plan | Rejection) -> Plan | Rejection:
    """Return the plan, or the rejection of one that makes a constant too large for float16."""
    return plan.overflow() or plan if isinstance(plan, Plan) else plan


def _is_elementwise(node: ir.Node) -> bool:
    return node.op_type in ELEMENTWISE_OPS


def _follows_batchnorm(node: ir.Node) -> bool:
    """Return whether a node alone reads a BatchNormalization, which then absorbs a scalar too."""
    for value in node.inputs:
        producer = value.producer() if value is not None else None
        if value is not None and producer is not None and is_batchnorm(producer):
            return sole_reader(value) is node
    return False
