"""The state of a fold, and the shape that all of its stages have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import onnx_ir as ir

from normfold.contract.progress import ProgressCallback, ignore_progress
from normfold.export.fold.plan import Plan
from normfold.export.fold.rejection import Rejection
from normfold.export.fold.report import FoldReport, Outcome
from normfold.export.graph.nodes import all_nodes
from normfold.export.graph.pixels import FromPixels


@dataclass(frozen=True)
class FoldOptions:
    """The choices of a caller, for the stages that ask for them."""

    merging: bool = True
    """Merge parallel linear branches, and layers in a row, into one layer."""
    pixels: FromPixels | None = None
    """Make the input 8-bit pixels, and fold their standardisation too."""


@dataclass(frozen=True)
class FoldedNode:
    """A node that was folded: how, the labels of the nodes that absorbed it, and of all nodes on the way."""

    outcome: Outcome
    into: tuple[str, ...]
    path: tuple[str, ...]


@dataclass(eq=False)
class FoldState:
    """A model while it is folded, and what is known so far."""

    model: ir.Model
    options: FoldOptions = field(default_factory=FoldOptions)
    progress: ProgressCallback = ignore_progress
    report: FoldReport = field(default_factory=FoldReport)
    """Parameters, warnings, the pixel input and the count of affines; the entries are made from the rest at the end."""
    batchnorms: dict[str, ir.Node] = field(default_factory=dict)
    """Every BatchNormalization of the source by its label, in graph order."""
    folded: dict[ir.Node, FoldedNode] = field(default_factory=dict)
    rejections: dict[ir.Node, tuple[Rejection, ...]] = field(default_factory=dict)
    """Why a node was not folded when it was tried last: backwards and forwards, or one where neither was tried."""
    output_values: dict[ir.Value, ir.Node] = field(default_factory=dict)
    """Values that hold what a BatchNormalization of the source gave out, whether it is still there or was folded."""

    def batchnorms_left(self) -> dict[str, ir.Node]:
        """Return each BatchNormalization of the source that is still in the graph, or in a body that is, by its label.

        A node of a body is not taken out of the body when the body is.
        """
        there = set(all_nodes(self.model.graph))
        return {label: node for label, node in self.batchnorms.items() if node in there}

    def forget_outputs(self, node: ir.Node, plan: Plan | None = None) -> None:
        """Forget that values hold what a BatchNormalization gave out: those of a node that goes, and of its plan."""
        changed = () if plan is None else (*plan.required, *plan.removed)
        for value in (*node.outputs, *changed):
            self.output_values.pop(value, None)


Stage = Callable[[FoldState], bool]
"""One stage: changes the model of a state in place, and returns whether it changed the model.

The docstring of a stage says what it requires of the model and what it ensures.
"""
