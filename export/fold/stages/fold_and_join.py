"""The stage that folds, merges and joins equal nodes, until nothing is found."""

from __future__ import annotations

from normfold.export.fold.stages.finish import join_equal_batchnorms, join_equal_nodes
from normfold.export.fold.stages.fold_and_merge import fold_and_merge
from normfold.export.fold.state import FoldState


def fold_and_join(state: FoldState) -> bool:
    """Fold and merge, and make one node of equal ones, which may be the only reader then of a value before it.

    Requires: what `fold_and_merge` does.
    Ensures: what it and `join_equal_nodes` do; folding the result again changes nothing.
    """
    changed = join_equal_batchnorms(state)
    changed |= fold_and_merge(state)
    while join_equal_nodes(state):
        changed = True
        if not fold_and_merge(state):
            break
    return changed
