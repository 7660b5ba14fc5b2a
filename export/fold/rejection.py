"""A rejection: a fold that is not done, with its reason code, and a sentence that names the node."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from normfold.export.fold.reason_codes import ReasonCode
from normfold.export.graph.constants import is_overridable, not_constant_because
from normfold.export.graph.nodes import node_label


@dataclass(frozen=True, eq=False)
class Rejection:
    """A fold that is not done: the reason, the node that it stops at, and the rest of a sentence about that node."""

    code: ReasonCode
    node: ir.Node
    detail: str

    @property
    def sentence(self) -> str:
        """The whole sentence."""
        return f"{self.node.op_type} {node_label(self.node)!r}: {self.detail}."


def reject_not_per_channel(node: ir.Node) -> Rejection:
    """Return the rejection of an affine that varies within a channel."""
    return Rejection(ReasonCode.NOT_PER_CHANNEL, node, "the affine is not one gain and offset for each of its channels")


def reject_read_as_weight(node: ir.Node) -> Rejection:
    """Return the rejection of a value that a node takes as its weight or bias."""
    return Rejection(ReasonCode.WEIGHTS_NOT_CONSTANT, node, "it reads the value as its weight or bias")


def reject_overridable(node: ir.Node, index: int | None = None) -> Rejection | None:
    """Return the rejection of a node that reads an input with a default, None if it reads none.

    With `index`, that input of the node alone is looked at.
    """
    for value in node.inputs if index is None else (node.inputs[index],):
        if value is not None and is_overridable(value):
            detail = f"its operand {value.name!r} {not_constant_because(value)}"
            return Rejection(ReasonCode.WEIGHTS_NOT_CONSTANT, node, detail)
    return None


def reject_invalid_group(node: ir.Node) -> Rejection:
    """Return the rejection of groups that do not divide the channels."""
    return Rejection(ReasonCode.INVALID_GROUP, node, "its groups do not divide its channels")


def reject_unknown_shape(node: ir.Node) -> Rejection:
    """Return the rejection at a node whose shapes inference did not find."""
    return Rejection(ReasonCode.UNKNOWN_SHAPE, node, "the shapes around it cannot be inferred")
