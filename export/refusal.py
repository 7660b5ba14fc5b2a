"""Why an affine stops at a node."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir


def node_label(node: ir.Node) -> str:
    """Return what a person can find a node by: its name, or its first output's."""
    return node.name or node.outputs[0].name or node.op_type


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
