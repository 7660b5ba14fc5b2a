"""Facts about single nodes and values: labels, opsets, readers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

import onnx_ir as ir

_SHAPE_READERS = frozenset({"Shape", "Size", "EyeLike", "RandomNormalLike", "RandomUniformLike"})

_WITH_BODIES = frozenset({"If", "Loop", "Scan", "SequenceMap"})
"""Standard operators that have graphs inside."""


def all_nodes(graph: ir.Graph) -> Iterator[ir.Node]:
    """Yield the nodes of a graph, and behind each those of its bodies.

    onnx-ir's own iterator looks at all attributes, which takes long: a fold goes over the nodes often.
    """
    for node in graph:
        yield node
        for body in bodies_of(node):
            yield from all_nodes(body)


def all_graphs(graph: ir.Graph) -> list[ir.Graph]:
    """Return a graph and the bodies inside it, from the outermost on."""
    return [graph, *(inner for node in graph for body in bodies_of(node) for inner in all_graphs(body))]


def bodies_of(node: ir.Node) -> list[ir.Graph]:
    """Return the graphs inside a node, as an If, Loop or Scan has them."""
    if node.domain == "" and node.op_type not in _WITH_BODIES:
        return []
    bodies: list[ir.Graph] = []
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH and not attribute.is_ref():
            bodies.append(attribute.as_graph())
        elif attribute.type == ir.AttributeType.GRAPHS and not attribute.is_ref():
            bodies += attribute.as_graphs()
    return bodies


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


def unused_node_name(base: str, taken: set[str]) -> str:
    """Return a name, with a number appended if it is taken, which it is from then on."""
    name, number = base, 1
    while name in taken:
        name, number = f"{base}.{number}", number + 1
    taken.add(name)
    return name


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
