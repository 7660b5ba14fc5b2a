"""Layers: nodes with a constant weight and bias, such as Conv, ConvTranspose and Gemm."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from normfold.export.arrays import Array
from normfold.export.fold.edits import Rewrite, input_name, replacement
from normfold.export.fold.plan import Step
from normfold.export.fold.reason_codes import ReasonCode
from normfold.export.fold.rejection import Rejection
from normfold.export.graph.constants import DerivedConstant, constant_dtype, constant_shape, float64_reader, is_constant


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
        constants = {1: replacement(self.node, 1, "weight", weight)}
        if bias is not None:
            constants[2] = DerivedConstant(self._bias_name(), bias[0], self.dtype, bias[1])
        return Step(edit=Rewrite(self.node, constants, op_type, attributes or {}))

    def _bias_name(self) -> str:
        """Return the bias's own name; where there is none, the weight's with the role changed."""
        weight = self.node.inputs[1]
        is_named = len(self.node.inputs) > 2 and self.node.inputs[2] is not None
        if not is_named and weight is not None and weight.name and weight.name.endswith(".weight"):
            return weight.name.removesuffix("weight") + "bias"
        return input_name(self.node, 2, "bias")


def read_layer(node: ir.Node) -> Layer | Rejection:
    """Read a node's weight and bias, or say why they cannot be replaced."""
    weight = node.inputs[1]
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    for role, value in (("weight", weight), ("bias", bias)):
        if role == "bias" and value is None:
            continue
        if not is_constant(value):
            return Rejection(
                ReasonCode.WEIGHTS_NOT_CONSTANT, node, f"its {role} is computed or may be overridden by the caller"
            )
    return Layer(
        node,
        weight=float64_reader(weight),
        weight_shape=constant_shape(weight),
        dtype=constant_dtype(weight),
        bias=None if bias is None else float64_reader(bias),
        bias_shape=() if bias is None else constant_shape(bias),
    )


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
