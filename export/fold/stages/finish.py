"""Stages that finish a folded model: equal nodes joined, the result checked."""

from __future__ import annotations

import onnx_ir.passes.common as common_passes

from normfold.export.fold.state import FoldState
from normfold.export.graph import bodies, simplify
from normfold.export.onnx_io.model_file import check_result


def join_equal_nodes(state: FoldState) -> bool:
    """Make one node of those that compute the same of the same values.

    Requires: everything folded: two layers that read one value must each be free to change it before.
    Ensures: no two deterministic nodes are equal, and every node and constant leads to an output of the graph.
    """
    joined = simplify.join_equal_nodes(state.model)
    removed = common_passes.RemoveUnusedNodesPass()(state.model)
    return bodies.remove_unread_constants(state.model) or joined or bool(removed.modified)


def check(state: FoldState) -> bool:
    """Check the model with onnx's checker, types and shapes included.

    Requires: a model that is complete.
    Ensures: it is valid; the model is as it was.

    Raises:
        FoldError: it is not valid, which would be a fault of the fold.
    """
    check_result(state.model)
    return False
