"""Which BatchNormalization nodes normalise by the batch, and how they are made to normalise by statistics."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import partial

import numpy as np
import onnx_ir as ir

from normfold.export.errors import RepairError
from normfold.export.fold.batchnorm_parameters import PARAMETERS, is_training
from normfold.export.graph.constants import DerivedConstant, constant_tensor
from normfold.export.graph.editor import Editor
from normfold.export.graph.nodes import all_nodes, is_batchnorm, node_label, opset_of, unique_labels
from normfold.export.graph.shapes import static_size

_SAVED_STATISTICS = 3
"""Index of the first output that holds statistics of the batch itself: saved_mean and saved_var, until opset 13."""


class Cause(StrEnum):
    """Why a BatchNormalization normalises by the batch."""

    TRAINING_MODE = "training mode"
    COMPUTED = "statistics computed from the batch"


@dataclass(frozen=True, eq=False)
class BatchStatistics:
    """A BatchNormalization that normalises by the batch."""

    node: ir.Node
    label: str
    cause: Cause
    has_statistics: bool
    """Whether its file holds statistics for it that were set: not mean 0 and variance 1 throughout."""


def find_batch_statistics(model: ir.Model) -> list[BatchStatistics]:
    """Return the nodes that normalise by the batch, in graph order. Constants are computed, functions inlined."""
    nodes = [node for node in all_nodes(model.graph) if is_batchnorm(node)]
    found = []
    for label, node in zip(unique_labels(nodes), nodes, strict=True):
        if _is_computed_from_input(node):
            found.append(BatchStatistics(node, label, Cause.COMPUTED, has_statistics=False))
        elif is_training(node, opset_of(node)):
            found.append(BatchStatistics(node, label, Cause.TRAINING_MODE, _has_statistics(node)))
    return found


def find_active_dropouts(model: ir.Model) -> list[str]:
    """Return the labels of the Dropout nodes whose training_mode, an input from opset 12 on, is true."""
    dropouts = [node for node in all_nodes(model.graph) if node.op_type == "Dropout" and node.domain == ""]
    modes = {node: constant_tensor(node.inputs[2]) for node in dropouts if len(node.inputs) > 2}
    return [node_label(node) for node, mode in modes.items() if mode is not None and bool(mode.numpy().any())]


def set_inference_mode(model: ir.Model, node: ir.Node) -> tuple[str, ...]:
    """Make a BatchNormalization normalise by its statistics; return the outputs of the model that were removed.

    Updated statistics are what they were, in inference: nodes read the stored ones instead, and a model no longer gives
    them out.

    Raises:
        RepairError: a node reads the statistics of the batch.
    """
    removed: list[str] = []
    for index, value in enumerate(node.outputs[1:], start=1):
        if index >= _SAVED_STATISTICS and (value.uses() or value.is_graph_output()):
            raise RepairError(
                f"BatchNormalization {node_label(node)!r} gives out the statistics of the batch, {value.name!r}, which "
                "are read: there are none in inference mode."
            )
        if value.is_graph_output() and node.graph is not model.graph:
            raise RepairError(
                f"BatchNormalization {node_label(node)!r} gives updated statistics out of the subgraph of a control "
                "flow node: there are none in inference mode."
            )
        while value.is_graph_output():
            removed.append(value.name or "")
            model.graph.outputs.remove(value)
        for reader, place in list(value.uses()):
            reader.replace_input_with(place, node.inputs[2 + index])
    node.resize_outputs(1)
    node.attributes.pop("training_mode", None)
    return tuple(removed)


def set_placeholders(editor: Editor, node: ir.Node) -> None:
    """Give a BatchNormalization mean 0 and variance 1 as constants, for others to be put in their place.

    Raises:
        RepairError: its number of channels is not known.
    """
    channels = static_size(node.inputs[1], 0) or static_size(node.inputs[0], 1)
    dtype = node.inputs[1].dtype if node.inputs[1] is not None else None
    if channels is None or dtype is None:
        raise RepairError(f"The number of channels of BatchNormalization {node_label(node)!r} is not known.")
    for role, array in zip(PARAMETERS[2:], (np.zeros(channels), np.ones(channels)), strict=True):
        name = f"{node_label(node)}.{role}"
        constant = DerivedConstant(name, array.shape, dtype, partial(np.copy, array))
        editor.put_constant(node, 1 + PARAMETERS.index(role), constant)


def _is_computed_from_input(node: ir.Node) -> bool:
    """Return whether mean or variance are computed from what the node normalises."""
    return any(node.inputs[0] in _ancestors(value) for value in node.inputs[3:5])


def _ancestors(value: ir.Value | None) -> set[ir.Value | None]:
    """Return the values that a value is computed from."""
    found: set[ir.Value | None] = set()
    queue = [value]
    while queue:
        current = queue.pop()
        producer = current.producer() if current is not None else None
        for source in producer.inputs if producer is not None else ():
            if source is not None and source not in found:
                found.add(source)
                queue.append(source)
    return found


def _has_statistics(node: ir.Node) -> bool:
    """Return whether a node's statistics are in the file, finite, and were ever set; the caller's count too."""
    tensors = [constant_tensor(value) for value in node.inputs[3:5]]
    if any(tensor is None for tensor in tensors):
        return all(value is not None and value.is_graph_input() for value in node.inputs[3:5])
    mean, var = (tensor.numpy().astype(np.float64) for tensor in tensors if tensor is not None)
    is_unset = not mean.any() and bool((var == 1).all())
    return not is_unset and bool(np.isfinite(mean).all() and np.isfinite(var).all() and (var >= 0).all())
