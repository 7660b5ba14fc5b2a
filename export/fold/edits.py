"""Edits: how a plan changes the nodes that absorb an affine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import onnx_ir as ir

from normfold.export.arrays import Array
from normfold.export.fold.cost import bytes_of
from normfold.export.graph.constants import DerivedConstant, constant_dtype, constant_shape
from normfold.export.graph.editor import Editor
from normfold.export.graph.nodes import node_label


class Edit(Protocol):
    """A change of one node. It adds no node."""

    @property
    def node(self) -> ir.Node:
        """The node that absorbs."""

    @property
    def new_constants(self) -> Sequence[DerivedConstant]:
        """The constants that it puts into the graph."""

    @property
    def added_bytes(self) -> int:
        """Bytes of constants that the node will read, minus those that it reads now."""

    def apply(self, editor: Editor) -> None:
        """Carry it out."""


@dataclass(frozen=True, eq=False)
class Rewrite:
    """A node with other constants and float attributes, and if `op_type` is given, as another operator.

    `copied` are attributes as another node has them, None for one that it lacks.
    """

    node: ir.Node
    constants: Mapping[int, DerivedConstant]
    op_type: str | None = None
    attributes: Mapping[str, float] = field(default_factory=dict)
    copied: Mapping[str, ir.Attr | None] = field(default_factory=dict)

    @property
    def new_constants(self) -> Sequence[DerivedConstant]:
        """The new constants."""
        return tuple(self.constants.values())

    @property
    def added_bytes(self) -> int:
        """Bytes that the new constants have more than the old."""
        inputs = self.node.inputs
        old = [inputs[index] for index in self.constants if index < len(inputs)]
        return sum(derived.nbytes for derived in self.constants.values()) - sum(
            bytes_of(value) for value in old if value is not None
        )

    def apply(self, editor: Editor) -> None:
        """Replace the constants, then the operator."""
        if self.op_type is not None:
            self.node.op_type = self.op_type
        for name, number in self.attributes.items():
            self.node.attributes[name] = ir.AttrFloat32(name, number)
        for name, attribute in self.copied.items():
            self.node.attributes.pop(name, None)
            if attribute is not None:
                self.node.attributes[name] = attribute
        for index, derived in self.constants.items():
            editor.put_constant(self.node, index, derived)


@dataclass(frozen=True, eq=False)
class GemmAfterReshape:
    """MatMul, then Reshape to a matrix, becomes Reshape, then Gemm, which has a bias.

    The Reshape must keep the last axis. `weight` is (K, N), `bias` (N,).
    """

    node: ir.Node
    reshape: ir.Node
    weight: DerivedConstant
    bias: DerivedConstant

    @property
    def new_constants(self) -> Sequence[DerivedConstant]:
        """Weight and bias."""
        return (self.weight, self.bias)

    @property
    def added_bytes(self) -> int:
        """Bytes of the bias; the weight is as large as it was."""
        return self.bias.nbytes

    def apply(self, editor: Editor) -> None:
        """Swap the two nodes; the MatMul's own output carries the reshaped input then."""
        matmul, reshape = self.node, self.reshape
        source, product, result = matmul.inputs[0], matmul.outputs[0], reshape.outputs[0]
        assert source is not None  # MatMul's inputs are not optional
        matrix = ir.Tensor(np.array([-1, self.weight.shape[0]], np.int64))
        shape = editor.add_initializer(matrix, f"{self.weight.name}.rows")
        result.replace_all_uses_with(product, replace_graph_outputs=True)
        matmul.replace_input_with(0, result)
        reshape.replace_input_with(0, source)
        reshape.replace_input_with(1, shape)
        reshape.attributes.pop("allowzero", None)
        product.shape, result.shape = result.shape, ir.Shape([None, self.weight.shape[0]])
        product.name, result.name = result.name, editor.unused_name(f"{source.name}.rows")
        editor.graph.remove(matmul)
        editor.graph.insert_after(reshape, matmul)
        matmul.op_type = "Gemm"
        editor.put_constant(matmul, 1, self.weight)
        editor.put_constant(matmul, 2, self.bias)


def replacement(
    node: ir.Node, index: int, role: str, compute: Callable[[], Array], shape: tuple[int, ...] | None = None
) -> DerivedConstant:
    """Return a constant to put in the place of another, under its name and of its dtype.

    Args:
        node: reads the other.
        index: of the node's input.
        role: names the constant, after the node's label, where the other has no name.
        compute: gives the values, float64.
        shape: of the values; None where it stays as it is.
    """
    value = node.inputs[index]
    shape = constant_shape(value) if shape is None else shape
    return DerivedConstant(input_name(node, index, role), shape, constant_dtype(value), compute)


def input_name(node: ir.Node, index: int, role: str) -> str:
    """Return the name of a node's input; where there is none, the node's label and the role."""
    value = node.inputs[index] if index < len(node.inputs) else None
    return (value.name if value is not None else None) or f"{node_label(node)}.{role}"
