"""Tidying of an exported graph, without changing what it computes."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import (
    ClearMetadataAndDocStringPass,
    IdentityEliminationPass,
    RemoveUnusedNodesPass,
    RemoveUnusedOpsetsPass,
)
from onnxscript.optimizer import fold_constants_ir

from normfold.models.errors import OnnxExportError

OPTIONAL_BIAS = {"Conv": 2, "ConvTranspose": 2, "Gemm": 2}
"""Operators whose last input is a bias that may be left out, and its position."""

_RUNNING_MEAN = 3
"""Its position among a BatchNormalization's inputs."""


def tidy(model: ir.Model) -> None:
    """Fold constants, drop biases that the exporter made of zeros, unused nodes, and traces of the machine; and name
    each BatchNormalization as the network names its module.

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
    _name_norms(model)
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


def _name_norms(model: ir.Model) -> None:
    """Call nodes by the module whose statistics they have: reports, the audit and the service speak of the same layer.

    A module that is called again has a number behind its name from the second call on.
    """
    calls: Counter[str] = Counter()
    for node in model.graph.all_nodes():
        if node.op_type != "BatchNormalization" or (mean := node.inputs[_RUNNING_MEAN]) is None or mean.name is None:
            continue
        module, dot, _ = mean.name.rpartition(".")
        if dot:
            calls[module] += 1
            node.name = module if calls[module] == 1 else f"{module}#{calls[module]}"


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
