"""One BatchNormalization node: its five tensors read and checked, and the channel affine that they make."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from normfold.export.arrays import Array
from normfold.export.fold.affine import Affine
from normfold.export.fold.reason_codes import ReasonCode
from normfold.export.fold.rejection import Rejection
from normfold.export.graph.constants import constant_tensor, float64_reader, not_constant_because
from normfold.export.graph.nodes import is_batchnorm

DEFAULT_EPSILON = 1e-5
PARAMETERS = ("scale", "shift", "running_mean", "running_var")

CANONICAL_EPSILON = 2.0**-16
CANONICAL_VARIANCE = 1 - CANONICAL_EPSILON
"""Of a BatchNormalization that stands for a Mul and an Add: with mean 0, gain and offset are its scale and shift.
Variance + epsilon is exactly 1 in float32 and float64. float16 and bfloat16 round the variance itself to 1."""


@dataclass(frozen=True, eq=False)
class BatchNorm:
    """The frozen parameters of one BatchNormalization, each of shape (C,), float64.

    Source: Ioffe & Szegedy 2015, arXiv:1502.03167, algorithm 2; ONNX BatchNormalization, training_mode=0.
    """

    node: ir.Node
    scale: Array
    shift: Array
    running_mean: Array
    running_var: Array
    epsilon: float

    def affine(self, rank: int) -> Affine:
        """Return y = gain * x + offset for an input of the given rank, channels on axis 1.

        gain = scale / sqrt(running_var + epsilon)        offset = shift - gain * running_mean
        """
        return Affine.per_channel(*self.gain_and_offset(), rank)

    def gain_and_offset(self) -> tuple[Array, Array]:
        """Return both as vectors (C,)."""
        gain = self.scale / np.sqrt(self.running_var + self.epsilon)
        return gain, self.shift - gain * self.running_mean

    @property
    def statistics_never_set(self) -> bool:
        """Return whether the statistics are those of a layer without any training: mean 0 and variance 1 throughout."""
        return not self.running_mean.any() and bool(np.all(self.running_var == 1))


def is_training(node: ir.Node, opset: int) -> bool:
    """Return whether a BatchNormalization normalises by the batch; until opset 13 the number of outputs says so."""
    return bool(node.attributes.get_int("training_mode", 0)) or (opset < 14 and bool(_further_outputs(node)))


def is_canonical(node: ir.Node) -> bool:
    """Return whether a BatchNormalization was made of a Mul and an Add: its statistics are those constants, not data's.

    Mean 0, variance 1 - 2^-16 (as its dtype rounds it) and epsilon 2^-16 in every channel.
    """
    if not is_batchnorm(node) or node.attributes.get_int("training_mode", 0) != 0:
        return False
    if node.attributes.get_float("epsilon", DEFAULT_EPSILON) != CANONICAL_EPSILON:
        return False
    mean, var = (constant_tensor(value) for value in node.inputs[3:5])
    if mean is None or var is None:
        return False
    return not mean.numpy().any() and bool(np.all(var.numpy() == canonical_variance(var.dtype)))


def canonical_variance(dtype: ir.DataType) -> float:
    """Return the variance of a canonical BatchNormalization, as a dtype rounds it."""
    return float(np.array(CANONICAL_VARIANCE).astype(dtype.numpy()))


def read_batchnorm(node: ir.Node, opset: int) -> BatchNorm | Rejection:
    """Read a BatchNormalization's parameters, to fold them.

    Args:
        node: the BatchNormalization.
        opset: of the model.

    Returns:
        The parameters in float64, or why they cannot be read or used.
    """
    if is_training(node, opset):
        return Rejection(
            ReasonCode.TRAINING_MODE, node, "it is in training mode: it normalises by the batch, not by its statistics"
        )
    if any(value.uses() or value.is_graph_output() for value in _further_outputs(node)):
        return Rejection(ReasonCode.FURTHER_OUTPUTS, node, "its statistics are outputs that are read")
    read = read_parameters(node, opset)
    return read if isinstance(read, Rejection) or _is_usable(read) else _unusable(node)


def read_parameters(node: ir.Node, opset: int) -> BatchNorm | Rejection:
    """Read a BatchNormalization's parameters, whatever their values and its mode.

    Args:
        node: the BatchNormalization.
        opset: of the model; until opset 8 `spatial` exists.

    Returns:
        The parameters in float64, or why they cannot be read.
    """
    if opset < 9 and not node.attributes.get_int("spatial", 1):
        return Rejection(ReasonCode.NOT_SPATIAL, node, _why_not_spatial(node))
    vectors: list[Array] = []
    for name, value in zip(PARAMETERS, node.inputs[1:], strict=True):
        tensor = constant_tensor(value)
        if tensor is None:
            return Rejection(ReasonCode.PARAMETER_NOT_CONSTANT, node, f"its {name} {not_constant_because(value)}")
        vectors.append(float64_reader(value)().reshape(-1))
    epsilon = node.attributes.get_float("epsilon", DEFAULT_EPSILON)
    if len({vector.size for vector in vectors}) > 1:
        return Rejection(ReasonCode.PARAMETER_MISMATCH, node, "its parameters differ in length")
    scale, shift, mean, var = vectors
    return BatchNorm(node, scale, shift, mean, var, float(np.float32(epsilon)))


def _why_not_spatial(node: ir.Node) -> str:
    """Return why a node with spatial=0 is kept, which the stage `correct_spatial` did not correct."""
    scale = constant_tensor(node.inputs[1])
    if scale is not None and len(scale.shape) > 1:
        return "it keeps statistics for every position (spatial=0), not for every channel"
    return "it has spatial=0, and parameters that are not known to be one number for each channel"


def _further_outputs(node: ir.Node) -> list[ir.Value]:
    return [value for value in node.outputs[1:] if value.name]


def _is_usable(batchnorm: BatchNorm) -> bool:
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        gain, offset = batchnorm.gain_and_offset()
    return bool(np.isfinite(gain).all() and np.isfinite(offset).all())


def _unusable(node: ir.Node) -> Rejection:
    return Rejection(ReasonCode.STATISTICS_NOT_FINITE, node, "its parameters give a gain or offset that is not finite")
