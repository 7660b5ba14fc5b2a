"""A node with a constant weight and bias: what Conv, ConvTranspose and Gemm have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from normfold.export.fold.affine import Array
from normfold.export.fold.edits import Rewrite
from normfold.export.fold.plan import Step
from normfold.export.fold.rejection import Refusal, node_label
from normfold.export.graph.constants import Derived, constant_dtype, constant_shape, exact, is_constant


@dataclass(frozen=True, eq=False)
class Layer:
    """Weight (input 1) and bias (input 2) of a node, read in float64 when asked."""

    node: ir.Node
    weight: Callable[[], Array]
    weight_shape: tuple[int, ...]
    dtype: ir.DataType
    bias: Callable[[], Array] | None
    bias_shape: tuple[int, ...]

    def rewritten(
        self,
        weight: Callable[[], Array],
        bias: tuple[tuple[int, ...], Callable[[], Array]] | None,
        attributes: Mapping[str, float] | None = None,
        op_type: str | None = None,
    ) -> Step:
        """Return the step that gives the node another weight, of the same shape, and another bias of a given shape."""
        constants = {1: Derived(self._name(1, "weight"), self.weight_shape, self.dtype, weight)}
        if bias is not None:
            constants[2] = Derived(self._name(2, "bias"), bias[0], self.dtype, bias[1])
        return Step(change=Rewrite(self.node, constants, op_type, attributes or {}))

    def _name(self, index: int, role: str) -> str:
        """Return the constant's own name; for a bias that did not exist, the weight's with the role changed."""
        value = self.node.inputs[index] if index < len(self.node.inputs) else None
        if value is not None and value.name:
            return value.name
        weight = self.node.inputs[1]
        if weight is not None and weight.name and weight.name.endswith(".weight"):
            return weight.name.removesuffix("weight") + role
        return f"{node_label(self.node)}.{role}"


def read_layer(node: ir.Node) -> Layer | Refusal:
    """Read a node's weight and bias, or say why they cannot be replaced."""
    weight = node.inputs[1]
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    for role, value in (("weight", weight), ("bias", bias)):
        if role == "bias" and value is None:
            continue
        if not is_constant(value):
            return Refusal("weights-not-constant", f"its {role} is computed or may be overridden by the caller", node)
    return Layer(
        node,
        weight=exact(weight),
        weight_shape=constant_shape(weight),
        dtype=constant_dtype(weight),
        bias=None if bias is None else exact(bias),
        bias_shape=() if bias is None else constant_shape(bias),
    )


def spread(vector: Array, axis: int, rank: int) -> Array:
    """Return a vector as an array of the given rank that varies along one axis."""
    return vector.reshape([-1 if index == axis else 1 for index in range(rank)])


def by_group(vector: Array, groups: int, rows: int) -> Array:
    """Lay a vector over grouped channels out as a matrix, one row for each channel of the other side.

    Args:
        vector: (groups * n,), channels in group order.
        groups: number of groups.
        rows: number of channels on the other side, a multiple of `groups`, likewise in group order.

    Returns:
        (rows, n): row r holds the n values of the group that r belongs to.
    """
    return np.repeat(vector.reshape(groups, -1), rows // groups, axis=0)


def not_per_channel(node: ir.Node) -> Refusal:
    """Return the refusal for an affine that varies within a channel."""
    return Refusal("not-per-channel", "the affine is not one gain and offset for each of its channels", node)


def read_as_weight(node: ir.Node) -> Refusal:
    """Return the refusal for a value that a node takes as its weight or bias."""
    return Refusal("weights-not-constant", "it reads the value as its weight or bias", node)


def invalid_group(node: ir.Node) -> Refusal:
    """Return the refusal for groups that do not divide the channels."""
    return Refusal("invalid-group", "its groups do not divide its channels", node)
