"""The opset that a node belongs to."""

from __future__ import annotations

import onnx_ir as ir


def opset_of(node: ir.Node) -> int:
    """Return the version of the standard operators in the graph of a node."""
    graph = node.graph
    return 0 if graph is None else graph.opset_imports.get("", 0)
