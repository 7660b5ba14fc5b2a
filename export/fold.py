"""The fold: every BatchNormalization that a neighbour can absorb goes, every other stays, with the reason.

    requires   an inference graph of opset 7 or newer
    ensures    inputs, outputs, and every value that keeps its name are what they were, within rounding; no node is
               added; the report has one entry for each BatchNormalization of the source

Each BatchNormalization is tried backwards first (the layer before it takes the affine), then forwards.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

import onnx_ir as ir
import onnx_ir.passes.common as common_passes

from export.apply import Applier
from export.batchnorm import BatchNorm, is_batchnorm, read_batchnorm
from export.operators.table import OPERATORS
from export.plan import Plan, Planner
from export.refusal import Refusal, node_label
from export.report import Entry, FoldReport, Outcome


def fold(model: ir.Model, progress: Callable[[int, int], None] | None = None) -> FoldReport:
    """Fold the BatchNormalization nodes of a model, in place.

    Weights are computed when the model is written (see `export.constants`); this reads vectors only.

    Args:
        model: the unfolded model, from `export.onnx_file.load_model`.
        progress: called with the number of BatchNormalization nodes done and their total.

    Returns:
        What became of each BatchNormalization, in graph order.

    Raises:
        TrainingModeError: a BatchNormalization is in training mode.
    """
    common_passes.InlinePass()(model)
    nodes = [node for node in model.graph.all_nodes() if is_batchnorm(node)]
    opset = model.opset_imports[""] if nodes else 0
    parameters = [read_batchnorm(node, opset) for node in nodes]
    _infer_missing_shapes(model, nodes)

    pass_ = _Pass(model.graph)
    report = FoldReport()
    for done, (node, label, read) in enumerate(zip(nodes, _labels(nodes), parameters, strict=True), start=1):
        report.entries.append(pass_.fold_one(node, label, read))
        if isinstance(read, BatchNorm):
            report.parameters[label] = read
        if isinstance(read, BatchNorm) and read.statistics_never_set:
            report.warnings.append(
                f"BatchNormalization {label!r} has mean 0 and variance 1 in every channel: "
                "its statistics were probably never set by training."
            )
        if progress is not None:
            progress(done, len(nodes))
    common_passes.RemoveUnusedNodesPass()(model)
    carriers = pass_.carriers()
    report.entries = [
        replace(entry, carrier=carriers.get(node)) for node, entry in zip(nodes, report.entries, strict=True)
    ]
    return report


@dataclass(eq=False)
class _Pass:
    """One walk over the BatchNormalization nodes of a graph."""

    graph: ir.Graph

    def __post_init__(self) -> None:
        position = {node: index for index, node in enumerate(self.graph)}
        self._planner = Planner(OPERATORS, position)
        self._applier = Applier(self.graph)
        self._carriers: dict[ir.Value, ir.Node] = {}

    def fold_one(self, node: ir.Node, label: str, read: BatchNorm | Refusal) -> Entry:
        """Fold one node back, or else forward, or keep it."""
        if isinstance(read, Refusal):
            return self._keep(node, label, read)
        if node.graph is not self.graph:
            return self._keep(
                node, label, Refusal("subgraph", "it stands in the subgraph of a control flow node", node)
            )
        rank = _rank(node)
        if rank is None:
            return self._keep(node, label, Refusal("unknown-rank", "the rank of its input cannot be inferred", node))

        affine = read.affine(rank)
        back = self._planner.back(node, affine)
        if isinstance(back, Plan):
            self._forget_carriers(back)
            self._carriers[self._applier.fold_back(node, back)] = node
            return _folded(label, Outcome.FOLDED_BACK, back)
        forward = self._planner.forward(node, affine)
        if isinstance(forward, Plan):
            self._forget_carriers(forward)
            self._applier.fold_forward(node, forward)
            return _folded(label, Outcome.FOLDED_FORWARD, forward)
        return self._keep(node, label, back, forward)

    def carriers(self) -> dict[ir.Node, str]:
        """Return the value that still carries a BatchNormalization's output, where there is one."""
        return {node: value.name for value, node in self._carriers.items() if value.name}

    def _forget_carriers(self, plan: Plan) -> None:
        for value in (*plan.wanted, *plan.missing):
            self._carriers.pop(value, None)

    def _keep(self, node: ir.Node, label: str, *refusals: Refusal) -> Entry:
        self._carriers[node.outputs[0]] = node
        reasons = [refusal.sentence for refusal in refusals]
        if len(refusals) == 2:
            reasons = [f"{way}: {reason}" for way, reason in zip(("Backwards", "Forwards"), reasons, strict=True)]
        codes = "/".join(refusal.code for refusal in refusals)
        return Entry(label, Outcome.KEPT, code=codes, reason=" ".join(reasons))


def _folded(label: str, outcome: Outcome, plan: Plan) -> Entry:
    into = tuple(node_label(rewrite.node) for rewrite in plan.rewrites)
    return Entry(label, outcome, into=into, path=tuple(node_label(node) for node in plan.path))


def _labels(nodes: list[ir.Node]) -> list[str]:
    """Return a label for each node; names need not be unique in a graph, labels are."""
    seen: Counter[str] = Counter()
    labels = []
    for label in map(node_label, nodes):
        seen[label] += 1
        labels.append(label if seen[label] == 1 else f"{label}#{seen[label]}")
    return labels


def _rank(node: ir.Node) -> int | None:
    for value in (node.inputs[0], node.outputs[0]):
        if value is not None and value.shape is not None:
            return len(value.shape)
    return None


def _infer_missing_shapes(model: ir.Model, batchnorms: list[ir.Node]) -> None:
    """Infer shapes if a value that a fold may have to know lacks one; many exporters write them all."""
    if batchnorms and any(value.shape is None for node in model.graph for value in node.outputs):
        common_passes.ShapeInferencePass(check_type=False, strict_mode=False)(model)
