"""Why an affine stops at a node."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import onnx_ir as ir


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


@dataclass(frozen=True, eq=False)
class Refusal:
    """Why an affine stops at a node: a code for machines, and the rest of a sentence whose subject is the node."""

    code: str
    because: str
    node: ir.Node

    @property
    def sentence(self) -> str:
        """The whole sentence."""
        return f"{self.node.op_type} {node_label(self.node)!r}: {self.because}."
