"""Clean-up of an exported graph, which does not change the function that it computes."""

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
"""Operators with an optional bias as last input, and the bias's index among the inputs."""

_RUNNING_MEAN = 3
"""Index of running_mean among the inputs of a BatchNormalization."""


def clean_up(model: ir.Model) -> None:
    """Fold constants, remove zero biases of the exporter, unused nodes and metadata, and name the BatchNormalizations.

    The exporter replaces a missing bias by a chain of nodes that ends in zeros, and records the file and line of every
    call in the metadata of its nodes. A BatchNormalization gets the name of its module in the network.

    Ensures: no BatchNormalization is changed except for its name.
    """
    own = set(model.graph.initializers)
    fold_constants_ir(model, should_fold=lambda node: False if node.op_type == "BatchNormalization" else None)
    _drop_zero_biases(model, own)
    IdentityEliminationPass()(model)
    RemoveUnusedNodesPass()(model)
    RemoveUnusedOpsetsPass()(model)
    _name_batchnorms(model)
    ClearMetadataAndDocStringPass()(model)
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    for value in [*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()]:
        value.metadata_props.clear()


def count_nodes(model: ir.Model, op_type: str) -> int:
    """Return the number of nodes of an operator, including subgraphs."""
    return sum(node.op_type == op_type for node in model.graph.all_nodes())


def serialise(model: ir.Model) -> bytes:
    """Return the bytes of the model file; equal graphs give equal bytes.

    Raises:
        OnnxExportError: the model exceeds the 2 GiB that one protobuf file can hold.
    """
    try:
        return ir.to_proto(model).SerializeToString(deterministic=True)
    except Exception as error:  # protobuf's error differs between its implementations
        raise OnnxExportError(f"The graph cannot be written as one file (protobuf holds 2 GiB): {error}") from error


def _name_batchnorms(model: ir.Model) -> None:
    """Give each BatchNormalization the name of its module, so that reports, the audit and the service agree.

    From a module's second call on, `#2`, `#3`, … is appended.
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
    """Remove biases of zeros, except those in `own`, the network's own initializers."""
    for node in model.graph.all_nodes():
        position = OPTIONAL_BIAS.get(node.op_type)
        if position is None or len(node.inputs) <= position:
            continue
        bias = node.inputs[position]
        if bias is None or bias.name in own or bias.const_value is None:
            continue
        if not np.any(bias.const_value.numpy()):
            node.resize_inputs(position)
