"""The fold: every BatchNormalization that a neighbour can absorb goes, every other stays, with the reason.

    requires   an inference graph of opset 7 or newer
    ensures    inputs, outputs, and every value that keeps its name are what they were, within rounding; no node is
               added; the report has one entry for each BatchNormalization of the source

Each BatchNormalization is tried backwards first (the layer before it takes the affine), then forwards.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import onnx_ir as ir
import onnx_ir.passes.common as common_passes

from normfold.export.fold.affine import Affine
from normfold.export.fold.apply import fold_back, fold_forward
from normfold.export.fold.batchnorm import BatchNorm, is_batchnorm, read_batchnorm
from normfold.export.fold.editor import Editor
from normfold.export.fold.elementwise import OPERATORS as ELEMENTWISE
from normfold.export.fold.elementwise import constant_operand, read_elementwise, scales_a_normalised_value
from normfold.export.fold.merge.merge import merge
from normfold.export.fold.merge.sequence import merge_sequences
from normfold.export.fold.operators.table import OPERATORS
from normfold.export.fold.plan import Plan, Planner
from normfold.export.fold.rejection import Refusal, node_label, unique_labels
from normfold.export.fold.report import Entry, FoldReport, Outcome
from normfold.export.graph.opsets import opset_of
from normfold.export.graph.pixels import FromPixels, take_pixels
from normfold.export.graph.shapes import infer_shapes, rank_of
from normfold.export.graph.simplify import compute_constants, join_equal_nodes
from normfold.export.onnx_io.model_file import check_result


def fold(
    model: ir.Model,
    progress: Callable[[int, int], None] | None = None,
    merging: bool = True,
    pixels: FromPixels | None = None,
) -> FoldReport:
    """Fold the BatchNormalization nodes of a model, in place.

    Weights are computed when the model is written (see `export.graph.constants`); this reads vectors only.

    Args:
        model: the unfolded model, from `export.onnx_io.model_file.load_model`.
        progress: called with the number of BatchNormalization nodes done and their total.
        merging: make one layer of parallel linear branches, which takes up what stands on them.
        pixels: make the input 8-bit pixels, and fold their standardisation too.

    Returns:
        What became of each BatchNormalization, in graph order.

    Raises:
        TrainingModeError: a BatchNormalization is in training mode.
        PixelError: the model cannot take pixels.
        FoldError: the result is no valid graph, which would be a fault of the fold.
    """
    common_passes.InlinePass()(model)
    nodes = [node for node in model.graph.all_nodes() if is_batchnorm(node)]
    infer_shapes(model, afresh=True)
    while compute_constants(model) and infer_shapes(model):
        pass
    report = FoldReport()
    for node, label in zip(nodes, labels := unique_labels(nodes), strict=True):
        read = read_batchnorm(node, opset_of(node))
        if isinstance(read, BatchNorm):
            report.parameters[label] = read
            if read.statistics_never_set:
                report.warnings.append(
                    f"BatchNormalization {label!r} has mean 0 and variance 1 in every channel: "
                    "its statistics were probably never set by training."
                )
    common_passes.RemoveUnusedNodesPass()(model)
    infer_shapes(model)
    report.input = take_pixels(model, pixels.preprocessing) if pixels is not None else None
    pass_ = _Pass(model.graph, report.input.nodes if report.input is not None else ())
    pass_.fold(progress)
    while merging and pass_.merge():
        pass_.fold(progress)
    join_equal_nodes(model)
    common_passes.RemoveUnusedNodesPass()(model)
    check_result(model)
    report.affines = pass_.affines_folded
    carriers = pass_.carriers()
    report.entries = [pass_.entry(node, label, carriers.get(node)) for node, label in zip(nodes, labels, strict=True)]
    return report


class _Pass:
    """Walks over the affine nodes of a graph, again and again over those that stayed, until nothing folds any more.

    BatchNormalization goes first: a Mul or Add behind a layer may be what takes it up.
    """

    def __init__(self, graph: ir.Graph, scalars: Collection[ir.Node] = ()) -> None:
        self._graph = graph
        self._scalars = scalars
        self._editor = Editor(graph)
        self._gone: dict[ir.Node, tuple[Outcome, tuple[str, ...], tuple[str, ...]]] = {}
        self._refused: dict[ir.Node, tuple[Refusal, ...]] = {}
        self._carriers: dict[ir.Value, ir.Node] = {}
        self.affines_folded = 0
        for node in graph.all_nodes():
            if is_batchnorm(node):
                self._carriers[node.outputs[0]] = node

    def fold(self, progress: Callable[[int, int], None] | None) -> None:
        """Fold what can be folded."""
        self._planner = Planner(OPERATORS, {node: index for index, node in enumerate(self._graph)})
        batchnorms = [node for node in self._graph.all_nodes() if is_batchnorm(node)]
        others = [node for node in self._graph if constant_operand(node) is not None]
        total = len(batchnorms)
        before = (-1, -1)
        while (left := (len(batchnorms), len(others))) != before:
            before = left
            kept = []
            for index, node in enumerate(batchnorms, start=1):
                if not self._fold(node):
                    kept.append(node)
                if progress is not None:
                    progress(total - len(batchnorms) + index - len(kept), total)
            batchnorms = kept
            others = [node for node in others if not self._fold(node)]

    def merge(self) -> bool:
        """Merge layers in a row and parallel branches; return whether there were any."""
        pairs = merge_sequences(self._editor)
        for _, gone in pairs:
            self._carriers.pop(gone.outputs[0], None)
        merges = merge(self._editor)
        for merged in merges:
            into = (node_label(merged.into),)
            self._carriers.pop(merged.into.outputs[0], None)
            for node in merged.gone:
                self._gone[node] = (Outcome.MERGED, into, into)
                self._carriers.pop(node.outputs[0], None)
                self.affines_folded += node.op_type in ELEMENTWISE
        return bool(merges or pairs)

    def carriers(self) -> dict[ir.Node, str]:
        """Return the value that holds what a BatchNormalization gave out, where there still is one."""
        there = {value for node in self._graph.all_nodes() for value in node.outputs}
        return {node: value.name for value, node in self._carriers.items() if value.name and value in there}

    def entry(self, node: ir.Node, label: str, carrier: str | None) -> Entry:
        """Return what became of a BatchNormalization."""
        if node in self._gone:
            outcome, into, path = self._gone[node]
            return Entry(label, outcome, into=into, path=path, carrier=carrier)
        if node.graph is None:
            return Entry(label, Outcome.REMOVED, code="unread", reason="Nobody reads what it gives out.")
        refusals = self._refused[node]
        sentences = [refusal.sentence for refusal in refusals]
        if len(refusals) == 2:
            sentences = [f"{way}: {reason}" for way, reason in zip(("Backwards", "Forwards"), sentences, strict=True)]
        codes = "/".join(refusal.code for refusal in refusals)
        return Entry(label, Outcome.KEPT, code=codes, reason=" ".join(sentences), carrier=carrier)

    def _fold(self, node: ir.Node) -> bool:
        """Fold one node back, or else forward, or note why not."""
        target = self._read(node)
        if isinstance(target, Refusal):
            self._refused[node] = (target,)
            return False
        index, affine = target
        if affine.is_identity and self._bypass(node, index):
            return True
        back: Plan | Refusal = self._planner.back(node, affine, index)
        if isinstance(back, Plan):
            back = back.overflow() or back
        if isinstance(back, Plan):
            self._forget_carriers(node, back)
            carrier = fold_back(node, index, back, self._editor)
            if is_batchnorm(node):
                self._carriers[carrier] = node
            return self._note(node, Outcome.FOLDED_BACK, back)
        if not is_batchnorm(node) and scales_a_normalised_value(node):
            return False
        forward: Plan | Refusal = self._planner.forward(node, affine)
        if isinstance(forward, Plan) and not forward.pays(node):
            forward = Refusal("cost", "what its readers would take up is larger than what it moves", node)
        if isinstance(forward, Plan):
            forward = forward.overflow() or forward
        if isinstance(forward, Plan):
            self._forget_carriers(node, forward)
            fold_forward(node, index, forward, self._editor)
            return self._note(node, Outcome.FOLDED_FORWARD, forward)
        self._refused[node] = (back, forward)
        return False

    def _bypass(self, node: ir.Node, index: int) -> bool:
        """Remove a node that does nothing, unless it hands an input of the graph, or an output, on to the caller."""
        source, result = node.inputs[index], node.outputs[0]
        assert source is not None  # it was read as an affine of this input
        if result.is_graph_output() and (source.producer() is None or source.is_graph_output()):
            return False
        self._forget_carriers(node, Plan())
        if result.is_graph_output():
            source.name = result.name
        self._editor.bypass(node, source)
        return self._note(node, Outcome.FOLDED_BACK, Plan())

    def _read(self, node: ir.Node) -> tuple[int, Affine] | Refusal:
        """Return the input that a node is an affine of, and the affine."""
        if not is_batchnorm(node):
            read = read_elementwise(node, scalars=node in self._scalars)
            return (list(node.inputs).index(read.source), read.affine) if read else Refusal("", "", node)
        if node.graph is not self._graph:
            return Refusal("subgraph", "it stands in the subgraph of a control flow node", node)
        batchnorm = read_batchnorm(node, opset_of(node))
        if isinstance(batchnorm, Refusal):
            return batchnorm
        rank = rank_of(node.inputs[0]) or rank_of(node.outputs[0])
        if rank is None or rank < 2:
            return Refusal("unknown-shape", "its input has no channel axis, or a rank that cannot be inferred", node)
        return 0, batchnorm.affine(rank)

    def _note(self, node: ir.Node, outcome: Outcome, plan: Plan) -> bool:
        composed = plan.changes and all(_is_affine(change.node) for change in plan.changes)
        into = tuple(node_label(change.node) for change in plan.changes)
        path = tuple(node_label(step) for step in plan.path)
        self._gone[node] = (Outcome.COMPOSED if composed else outcome, into, path)
        self.affines_folded += not is_batchnorm(node)
        return True

    def _forget_carriers(self, node: ir.Node, plan: Plan) -> None:
        for value in (*node.outputs, *plan.wanted, *plan.missing):
            self._carriers.pop(value, None)


def _is_affine(node: ir.Node) -> bool:
    return is_batchnorm(node) or node.op_type in ELEMENTWISE
