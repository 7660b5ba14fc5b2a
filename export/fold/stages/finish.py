"""Stages that finish a folded model: equal nodes joined, the result checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir

from normfold.export.fold.report import Outcome
from normfold.export.fold.state import FoldedNode, FoldState
from normfold.export.graph import bodies, inference
from normfold.export.graph.constant_folding import simplify
from normfold.export.graph.nodes import node_label
from normfold.export.onnx_io.model_file import check_result


def join_equal_batchnorms(state: FoldState) -> bool:
    """Make one of BatchNormalization nodes that compute the same of one value, which another reader would keep.

    Requires: constants computed.
    Ensures: `state.folded` holds the outcome of each that is gone.
    """
    joined = simplify.join_equal_batchnorms(state.model)
    for node, first in joined.items():
        state.folded[node] = FoldedNode(Outcome.MERGED, (node_label(first),), (node_label(first),))
        state.forget_outputs(node)
    return bool(joined)


def join_equal_nodes(state: FoldState) -> bool:
    """Make one node of those that compute the same of the same values.

    Requires: everything folded: two layers that read one value must each be free to change it before.
    Ensures: no two deterministic nodes are equal, and every node and constant leads to an output of the graph.

    Returns:
        Whether nodes were joined.
    """
    before = {node: tuple(node.inputs) for node in state.batchnorms_left().values()}
    joined = simplify.join_equal_nodes(state.model)
    _note_joined(state, before)
    bodies.remove_unused_nodes(state.model)
    return joined


def _note_joined(state: FoldState, before: Mapping[ir.Node, Sequence[ir.Value | None]]) -> None:
    """Note what each BatchNormalization that is gone was joined with; `before` holds the inputs of those before."""
    left = state.batchnorms_left().values()
    for node in before.keys() - left:
        into = tuple(node_label(other) for other in left if before[other] == before[node])
        state.folded[node] = FoldedNode(Outcome.MERGED, into, into)
        state.forget_outputs(node)


def check(state: FoldState) -> bool:
    """Check the model with onnx's checker, types and shapes included.

    Requires: a model that is complete.
    Ensures: it is valid; shapes are known as far as inference finds them.

    Raises:
        FoldError: it is not valid, which would be a fault of the fold.
    """
    inferred = check_result(state.model)
    if inferred is None:
        return inference.infer_shapes(state.model)
    return inference.learn_shapes(state.model, inferred)
