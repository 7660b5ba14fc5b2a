"""What is constant is computed before a fold.

Exporters write a missing bias as Expand and CastLike nodes, and shapes as arithmetic on constants. onnxscript computes
them, as it does for torch's own exporter.
"""

from __future__ import annotations

import contextlib
import logging

import onnx_ir as ir
from onnxscript.optimizer import fold_constants_ir

from export.batchnorm import is_batchnorm

logging.getLogger("onnxscript").setLevel(logging.ERROR)


def compute_constants(model: ir.Model) -> None:
    """Replace small constant expressions by initializers, in place; every BatchNormalization stays."""
    with contextlib.suppress(RuntimeError):  # what it cannot evaluate stays: it replaces one node after the other
        fold_constants_ir(model, should_fold=lambda node: False if is_batchnorm(node) else None)
