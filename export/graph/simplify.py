"""Simplifications of what exporters write: constants computed before a fold, equal nodes joined after it.

torch's exporter, its optimiser off, writes a missing bias as Expand and CastLike nodes, and the same shape arithmetic
before every Reshape. onnxscript and onnx-ir, which that optimiser is made of, do both. Equal nodes are joined last: two
layers that read one value must each be free to change it.
"""

from __future__ import annotations

import logging

import onnx_ir as ir
import onnx_ir.passes.common as common_passes
from onnxscript.optimizer import fold_constants_ir

from normfold.export.graph.nodes import is_batchnorm

_RANDOM = frozenset({"Bernoulli", "Dropout", "Multinomial"})
"""Some operators that differ from run to run; RandomNormal and its like are known to the pass itself."""

logging.getLogger("onnxscript").setLevel(logging.ERROR)


def compute_constants(model: ir.Model) -> bool:
    """Replace small constant expressions by initializers, in place; every BatchNormalization stays.

    Returns:
        Whether there were any: shapes may be known then that were not.
    """
    if any(_gives_a_mask(node) for node in model.graph.all_nodes()):
        return False  # it would write the mask out as several nodes
    try:
        result = fold_constants_ir(model, should_fold=lambda node: False if is_batchnorm(node) else None)
    except RuntimeError:  # what it cannot evaluate stays: it replaces one node after the other
        return False
    return bool(result.modified)


def join_equal_nodes(model: ir.Model) -> bool:
    """Make one node of those that compute the same of the same values, in place; not where nodes may be random.

    Returns:
        Whether any were joined.
    """
    if any(node.domain or node.op_type in _RANDOM for node in model.graph.all_nodes()):
        return False
    return bool(common_passes.CommonSubexpressionEliminationPass()(model).modified)


def _gives_a_mask(node: ir.Node) -> bool:
    return node.op_type == "Dropout" and any(
        bool(value.uses()) or value.is_graph_output() for value in node.outputs[1:]
    )
