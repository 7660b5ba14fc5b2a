"""Tidying of an exported graph, without changing what it computes."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import (
    ClearMetadataAndDocStringPass,
    IdentityEliminationPass,
    RemoveUnusedNodesPass,
    RemoveUnusedOpsetsPass,
)
from onnxscript.optimizer import fold_constants_ir

from models.errors import OnnxExportError

OPTIONAL_BIAS = {"Conv": 2, "ConvTranspose": 2, "Gemm": 2}
"""Operators whose last input is a bias that may be left out, and its position."""


def tidy(model: ir.Model) -> None:
    """Fold constants, drop biases that the exporter made of zeros, unused nodes, and traces of the machine.

    The exporter spells a missing bias out as a chain of nodes that ends in zeros, and notes the file and line of every
    call in the metadata of its nodes.

    Ensures: every BatchNormalization is left as it was.
    """
    own = set(model.graph.initializers)
    fold_constants_ir(model, should_fold=lambda node: False if node.op_type == "BatchNormalization" else None)
    _drop_zero_biases(model, own)
    IdentityEliminationPass()(model)
    RemoveUnusedNodesPass()(model)
    RemoveUnusedOpsetsPass()(model)
    ClearMetadataAndDocStringPass()(model)
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    for value in [*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()]:
        value.metadata_props.clear()


def count_nodes(model: ir.Model, op_type: str) -> int:
    """Return the number of nodes of an operator, in subgraphs too."""
    return sum(node.op_type == op_type for node in model.graph.all_nodes())


def serialise(model: ir.Model) -> bytes:
    """Return the bytes of the file, the same for the same graph.

    Raises:
        OnnxExportError: over the 2 GiB that one protobuf can hold.
    """
    try:
        return ir.to_proto(model).SerializeToString(deterministic=True)
    except Exception as error:  # protobuf's error differs between its implementations
        raise OnnxExportError(f"The graph cannot be written as one file (protobuf holds 2 GiB): {error}") from error


def _drop_zero_biases(model: ir.Model, own: set[str]) -> None:
    """Leave out biases of zeros, unless they are the network's own."""
    for node in model.graph.all_nodes():
        position = OPTIONAL_BIAS.get(node.op_type)
        if position is None or len(node.inputs) <= position:
            continue
        bias = node.inputs[position]
        if bias is None or bias.name in own or bias.const_value is None:
            continue
        if not np.any(bias.const_value.numpy()):
            node.resize_inputs(position)
