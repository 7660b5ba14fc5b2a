"""Liveness: the values of a graph that are still needed from some node on."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir


def alive_before(node: ir.Node, batchnorms: Sequence[ir.Node]) -> list[ir.Value]:
    """Return the values made before a BatchNormalization that it, or one after it, still needs."""
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    places = {each: place for place, each in enumerate(graph)}
    alive: dict[ir.Value, None] = {}
    queue = [each for each in batchnorms if places[each] >= places[node]]
    seen = set(queue)
    while queue:
        for value in _read_by(queue.pop()):
            producer = value.producer()
            if value.is_initializer() or value.graph is not graph:
                continue  # a constant; or an input of a subgraph, or a value within one
            if producer is None or places[producer] < places[node]:
                alive[value] = None
            elif producer not in seen:
                seen.add(producer)
                queue.append(producer)
    return list(alive)


def _read_by(node: ir.Node) -> list[ir.Value]:
    """Return what a node reads, and what nodes in its subgraphs read; a subgraph's own inputs come along."""
    inside = [each for graph in _subgraphs(node) for each in graph.all_nodes()]
    return [value for each in (node, *inside) for value in each.inputs if value is not None]


def _subgraphs(node: ir.Node) -> list[ir.Graph]:
    found: list[ir.Graph] = []
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            found.append(attribute.as_graph())
        elif attribute.type == ir.AttributeType.GRAPHS:
            found.extend(attribute.as_graphs())
    return found
