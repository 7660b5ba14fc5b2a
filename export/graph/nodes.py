"""Facts about single nodes and values: labels, opsets, readers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import onnx_ir as ir

_SHAPE_READERS = frozenset({"Shape", "Size", "EyeLike", "RandomNormalLike", "RandomUniformLike"})


def node_label(node: ir.Node) -> str:
    """Return what a person can find a node by: its name, or its first output's."""
    return node.name or node.outputs[0].name or node.op_type


def unique_labels(nodes: Iterable[ir.Node]) -> list[str]:
    """Return a label for each node; names need not be unique in a graph, labels are."""
    seen: Counter[str] = Counter()
    labels = []
    for label in map(node_label, nodes):
        seen[label] += 1
        labels.append(label if seen[label] == 1 else f"{label}#{seen[label]}")
    return labels


def is_batchnorm(node: ir.Node) -> bool:
    """Return whether a node is ONNX's BatchNormalization."""
    return node.op_type == "BatchNormalization" and node.domain == ""


def opset_of(node: ir.Node) -> int:
    """Return the version of the standard operators in the graph of a node."""
    graph = node.graph
    return 0 if graph is None else graph.opset_imports.get("", 0)


def reads_shape_alone(node: ir.Node) -> bool:
    """Return whether a node reads of its input the shape or dtype, and no values."""
    return node.domain == "" and node.op_type in _SHAPE_READERS


def sole_reader(value: ir.Value) -> ir.Node | None:
    """Return the node that alone reads a value, in the graph that makes it; None where the caller reads it too."""
    uses = value.uses()
    producer = value.producer()
    if len(uses) != 1 or value.is_graph_output() or producer is None:
        return None
    (use,) = uses
    return use.node if use.node.graph is producer.graph else None
