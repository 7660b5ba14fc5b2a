"""Stages that measure the size of the graph, before and after the fold."""

from __future__ import annotations

from normfold.export.fold.state import FoldState
from normfold.export.graph.size import size_of


def measure_source(state: FoldState) -> bool:
    """Count nodes and multiplications of the source.

    Requires: functions inlined, shapes inferred.
    Ensures: `state.report.size_before` is set; the model is as it was.
    """
    state.report.size_before = size_of(state.model)
    return False


def measure_result(state: FoldState) -> bool:
    """Count nodes and multiplications of the folded model.

    Requires: nothing is folded any more, shapes inferred.
    Ensures: `state.report.size_after` is set; the model is as it was.
    """
    state.report.size_after = size_of(state.model)
    return False
