"""One BatchNormalization node: its five tensors read and checked, and the channel affine that they make."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from normfold.export.arrays import Array
from normfold.export.errors import TrainingModeError
from normfold.export.fold.affine import Affine
from normfold.export.fold.reason_codes import ReasonCode
from normfold.export.fold.rejection import Rejection
from normfold.export.graph.constants import constant_tensor, float64_reader
from normfold.export.graph.nodes import node_label

DEFAULT_EPSILON = 1e-5
PARAMETERS = ("scale", "shift", "running_mean", "running_var")


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
        gain = self.scale / np.sqrt(self.running_var + self.epsilon)
        return Affine.per_channel(gain, self.shift - gain * self.running_mean, rank)

    @property
    def statistics_never_set(self) -> bool:
        """Return whether the statistics are those of a layer without any training: mean 0 and variance 1 throughout."""
        return not self.running_mean.any() and bool(np.all(self.running_var == 1))


def is_training(node: ir.Node, opset: int) -> bool:
    """Return whether a BatchNormalization normalises by the batch; until opset 13 the number of outputs says so."""
    return bool(node.attributes.get_int("training_mode", 0)) or (opset < 14 and bool(_further_outputs(node)))


def read_batchnorm(node: ir.Node, opset: int) -> BatchNorm | Rejection:
    """Read a BatchNormalization's parameters, to fold them.

    Args:
        node: the BatchNormalization.
        opset: of the model.

    Returns:
        The parameters in float64, or why they cannot be read or used.

    Raises:
        TrainingModeError: the node normalises by the batch.
    """
    if is_training(node, opset):
        raise TrainingModeError(node_label(node))
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
        return Rejection(
            ReasonCode.NOT_SPATIAL, node, "it keeps statistics for every position (spatial=0), not for every channel"
        )
    vectors: list[Array] = []
    for name, value in zip(PARAMETERS, node.inputs[1:], strict=True):
        tensor = constant_tensor(value)
        if tensor is None:
            cause = "may be overridden by the caller" if value is not None and value.is_graph_input() else "is computed"
            return Rejection(ReasonCode.PARAMETER_NOT_CONSTANT, node, f"its {name} {cause}")
        vectors.append(float64_reader(value)().reshape(-1))
    epsilon = node.attributes.get_float("epsilon", DEFAULT_EPSILON)
    if len({vector.size for vector in vectors}) > 1:
        return Rejection(ReasonCode.PARAMETER_MISMATCH, node, "its parameters differ in length")
    scale, shift, mean, var = vectors
    return BatchNorm(node, scale, shift, mean, var, float(np.float32(epsilon)))


def _further_outputs(node: ir.Node) -> list[ir.Value]:
    return [value for value in node.outputs[1:] if value.name]


def _is_usable(batchnorm: BatchNorm) -> bool:
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        affine = batchnorm.affine(rank=2)
    return bool(np.isfinite(affine.gain).all() and np.isfinite(affine.offset).all())


def _unusable(node: ir.Node) -> Rejection:
    return Rejection(ReasonCode.STATISTICS_NOT_FINITE, node, "its parameters give a gain or offset that is not finite")
