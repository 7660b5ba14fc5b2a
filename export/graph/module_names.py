"""Names of the torch modules that nodes come from, as torch's exporter records them in a node's metadata."""

from __future__ import annotations

import ast
from collections.abc import Iterable

import onnx_ir as ir

from normfold.export.graph.nodes import node_label

_NAME_SCOPES = "pkg.torch.onnx.name_scopes"
_NAMESPACE = "namespace"


def module_name(node: ir.Node) -> str | None:
    """Return the name of the module whose call became a node, such as `layer1.0.bn1`; None where it is not recorded.

    Source: torch/onnx/_internal/exporter/_core.py, `_get_node_namespace`: `name_scopes` is a list of the names of the
    modules from the outermost, whose name is empty, to the innermost, and then the name of the call; `namespace` is the
    same as `name: class/name: class/call: target`.
    """
    names = _name_scopes(node.metadata_props.get(_NAME_SCOPES, ""))
    if names is None:
        parts = node.metadata_props.get(_NAMESPACE, "").split("/")
        names = [part.rpartition(": ")[0] for part in parts]
    modules = [name for name in names[:-1] if name]
    return modules[-1] if modules else None


def nodes_by_label(nodes: Iterable[ir.Node]) -> dict[str, ir.Node]:
    """Return the nodes whose module may be recorded, by their labels."""
    return {node_label(node): node for node in nodes if node.metadata_props}


def _name_scopes(text: str) -> list[str] | None:
    """Return the list that a text holds, None if it holds none."""
    try:
        names = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else None
