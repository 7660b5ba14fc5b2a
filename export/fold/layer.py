"""Layers: nodes with a constant weight and bias, such as Conv, ConvTranspose and Gemm."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from normfold.export.arrays import Array
from normfold.export.fold.edits import Rewrite, input_name
from normfold.export.fold.plan import Step
from normfold.export.fold.reason_codes import ReasonCode
from normfold.export.fold.rejection import Rejection
from normfold.export.fold.weights.weight import Weight, read_weight
from normfold.export.graph.constants import DerivedConstant

_CONVOLUTIONS = frozenset({"Conv", "ConvTranspose", "DeformConv"})


@dataclass(frozen=True, eq=False)
class Layer:
    """Weight (input 1) and bias of a node, read in float64 when asked; `bias_index` is the bias's input."""

    node: ir.Node
    own_weight: Weight
    own_bias: Weight | None
    bias_index: int

    @property
    def weight(self) -> Callable[[], Array]:
        """The weight in float64."""
        return self.own_weight.read

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Shape of the weight."""
        return self.own_weight.shape

    @property
    def dtype(self) -> ir.DataType:
        """Type of the weight, and of a bias that the node gets."""
        return self.own_weight.dtype

    @property
    def bias(self) -> Callable[[], Array] | None:
        """The bias in float64, None where there is none."""
        return None if self.own_bias is None else self.own_bias.read

    @property
    def bias_shape(self) -> tuple[int, ...]:
        """Shape of the bias; () where there is none."""
        return () if self.own_bias is None else self.own_bias.shape

    @property
    def is_stored(self) -> bool:
        """Whether weight and bias are initializers, and none is behind a DequantizeLinear."""
        return not any(own is not None and own.source for own in (self.own_weight, self.own_bias))

    def rewritten(
        self,
        factor: Array,
        bias: tuple[tuple[int, ...], Callable[[], Array]] | None,
        attributes: Mapping[str, float] | None = None,
    ) -> Step | Rejection:
        """Return the step that multiplies the weight, and gives the node another bias of a given shape.

        A bias behind a DequantizeLinear becomes a float, also where `bias` is None: integers would round an offset, and
        kernels of integers (ONNX Runtime's QLinearConv) take the bias's scale for that of the input times the weight's,
        which is another one now.

        Args:
            factor: broadcasts against the weight, float64.
            bias: shape and values, float64; None where it stays as it is.
            attributes: numbers that the node gets.

        Returns:
            The step, or why the weight cannot take the factor: see `Weight.scaled`.
        """
        scaled = self.own_weight.scaled(factor)
        if isinstance(scaled, Rejection):
            return scaled
        constants = dict(scaled.constants)
        if bias is None and self.own_bias is not None and self.own_bias.source:
            bias = self.own_bias.shape, self.own_bias.read
        if bias is not None:
            constants[self.bias_index] = DerivedConstant(self._bias_name(), bias[0], self.dtype, bias[1])
        return Step(edit=Rewrite(self.node, constants, attributes=attributes or {}, sources=scaled.sources))

    def _bias_name(self) -> str:
        """Return the bias's own name; where there is none, the weight's with the role changed."""
        weight = self.node.inputs[1]
        if self.own_bias is None and weight is not None and weight.name and weight.name.endswith(".weight"):
            return weight.name.removesuffix("weight") + "bias"
        return input_name(self.node, self.bias_index, "bias")


def read_layer(node: ir.Node, bias_index: int = 2, output_axis: int = 0) -> Layer | Rejection:
    """Read a node's weight and bias, or say why they cannot be replaced.

    Args:
        node: the layer, its weight input 1.
        bias_index: the bias's input.
        output_axis: the weight's axis of the layer's outputs.
    """
    weight = read_weight(node, 1, output_axis=output_axis)
    if isinstance(weight, Rejection):
        return weight
    if len(node.inputs) <= bias_index or node.inputs[bias_index] is None:
        return Layer(node, weight, None, bias_index)
    bias = read_weight(node, bias_index, "bias")
    if not isinstance(bias, Rejection) and node.op_type in _CONVOLUTIONS and len(bias.shape) != 1:
        because = f"its bias has the shape {list(bias.shape)}, where a convolution's is a vector"
        return Rejection(ReasonCode.WEIGHT_RANK, node, because)
    return bias if isinstance(bias, Rejection) else Layer(node, weight, bias, bias_index)


def along_axis(vector: Array, axis: int, rank: int) -> Array:
    """Return a vector as an array of the given rank that varies along one axis."""
    return vector.reshape([-1 if index == axis else 1 for index in range(rank)])


def by_group(vector: Array, groups: int, rows: int) -> Array:
    """Expand a vector in group order to one row for each channel of the weight's other channel axis.

    Args:
        vector: (groups * n,), channels in group order.
        groups: number of groups.
        rows: number of channels on that axis, a multiple of `groups`, in group order too.

    Returns:
        (rows, n): row r holds the n values of the group that r belongs to.
    """
    return np.repeat(vector.reshape(groups, -1), rows // groups, axis=0)
