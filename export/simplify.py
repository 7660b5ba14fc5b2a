"""What exporters write in a roundabout way: computed before a fold, joined behind it.

torch's exporter, its optimiser off, writes a missing bias as Expand and CastLike nodes, and the same shape arithmetic
before every Reshape. onnxscript and onnx-ir, which that optimiser is made of, do both. Equal nodes are joined last: two
layers that read one value must each be free to change it.
"""

from __future__ import annotations

import contextlib
import logging

import onnx_ir as ir
import onnx_ir.passes.common as common_passes
from onnxscript.optimizer import fold_constants_ir

from export.batchnorm import is_batchnorm

_RANDOM = frozenset({"Bernoulli", "Dropout", "Multinomial"})
"""Some operators that differ from run to run; RandomNormal and its like are known to the pass itself."""

logging.getLogger("onnxscript").setLevel(logging.ERROR)


def compute_constants(model: ir.Model) -> None:
    """Replace small constant expressions by initializers, in place; every BatchNormalization stays."""
    with contextlib.suppress(RuntimeError):  # what it cannot evaluate stays: it replaces one node after the other
        fold_constants_ir(model, should_fold=lambda node: False if is_batchnorm(node) else None)


def join_equal_nodes(model: ir.Model) -> None:
    """Make one node of those that compute the same of the same values, in place; not where nodes may draw lots."""
    if not any(node.domain or node.op_type in _RANDOM for node in model.graph.all_nodes()):
        common_passes.CommonSubexpressionEliminationPass()(model)
