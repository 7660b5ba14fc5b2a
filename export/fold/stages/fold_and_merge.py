"""The stage that folds affines and merges linear layers, in the graph and in its bodies, until nothing is found."""

from __future__ import annotations

from normfold.export.fold.elementwise import ELEMENTWISE_OPS
from normfold.export.fold.merge.branches import merge_branches
from normfold.export.fold.merge.sequence import merge_sequences
from normfold.export.fold.report import Outcome
from normfold.export.fold.stages.fold_affines import fold_affines
from normfold.export.fold.stages.join_affines import join_affines
from normfold.export.fold.stages.one_of_several import fold_one_of_several
from normfold.export.fold.state import FoldedNode, FoldState
from normfold.export.graph.editor import Editor
from normfold.export.graph.nodes import is_batchnorm, node_label


def fold_and_merge(state: FoldState) -> bool:
    """Fold affines into their neighbours, merge layers unless the options say otherwise, and begin again.

    The bodies of If, Loop and Scan are graphs of their own: an affine does not cross the border of a body.

    Requires: shapes inferred, constants computed, no unused nodes, no name of a value in two bodies.
    Ensures: nothing folds or merges any more; every value that keeps its name is what it was, within rounding; no node
        is added. `state.folded` and `state.rejections` hold the outcome of each BatchNormalization that was read.
    """
    for node in state.model.graph:
        if is_batchnorm(node):
            state.output_values[node.outputs[0]] = node
    editor = Editor(state.model.graph)
    changed = False
    for each in (editor, *editor.for_bodies()):
        changed |= _fold_and_merge(state, each)
    return changed


def _fold_and_merge(state: FoldState, editor: Editor) -> bool:
    """Do it in one graph; return whether it changed."""
    changed = fold_affines(state, editor)
    while (
        (state.options.merging and _merge(state, editor))
        or fold_one_of_several(state, editor)
        or join_affines(state, editor)
    ):
        fold_affines(state, editor)
        changed = True
    return changed


def _merge(state: FoldState, editor: Editor) -> bool:
    """Merge layers in a row and parallel branches; return whether there were any."""
    pairs = merge_sequences(editor)
    for _, gone in pairs:
        state.forget_outputs(gone)
    merges = merge_branches(editor)
    for merged in merges:
        into = (node_label(merged.into),)
        state.forget_outputs(merged.into)
        for node in merged.gone:
            state.folded[node] = FoldedNode(Outcome.MERGED, into, into)
            state.forget_outputs(node)
            state.report.affines += node.op_type in ELEMENTWISE_OPS
    return bool(merges or pairs)
