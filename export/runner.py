"""Runs a model exactly as it is written, without the optimisations that would hide what a fold did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from contract.errors import SetupError
from contract.runtime import require_onnxruntime
from export.errors import ModelFileError
from export.onnx_file import load_model

Tensor = npt.NDArray[Any]
Feeds = Mapping[str, Tensor]


@dataclass(frozen=True)
class Port:
    """An input or output: a size in `shape` is an int, a name for a free axis, or None for a free axis without one."""

    name: str
    dtype: ir.DataType
    shape: tuple[int | str | None, ...]


class Runner:
    """A model ready to run.

    float64 models go through onnx's reference evaluator, since ONNX Runtime has no float64 Conv on the CPU; all others
    through ONNX Runtime on the CPU with graph optimisation off.

    Args:
        path: of the model.

    Raises:
        ModelFileError: it cannot be read, or uses what neither can run.
    """

    def __init__(self, path: Path) -> None:
        model = load_model(path)
        self.path = path
        self.inputs = [_port(path, value) for value in model.graph.inputs if not value.is_initializer()]
        self.outputs = [_port(path, value) for value in model.graph.outputs]
        tensors = [value.const_value for value in model.graph.initializers.values()]
        dtypes = {port.dtype for port in self.inputs} | {tensor.dtype for tensor in tensors if tensor is not None}
        try:
            self._run = _reference(path) if ir.DataType.DOUBLE in dtypes else _onnxruntime(path)
        except SetupError:
            raise
        except Exception as error:  # noqa: BLE001 -- both raise many kinds for a model they do not know
            raise ModelFileError(path, f"cannot be run: {_one_line(error)}") from None

    def run(self, feeds: Feeds) -> dict[str, Tensor]:
        """Run once.

        Raises:
            ModelFileError: the run fails; the message holds the cause.
        """
        names = [port.name for port in self.outputs]
        try:
            results = self._run(names, dict(feeds))
        except Exception as error:  # noqa: BLE001 -- as above
            raise ModelFileError(self.path, f"failed to run: {_one_line(error)}") from None
        return {name: np.asarray(result) for name, result in zip(names, results, strict=True)}


def _onnxruntime(path: Path) -> Any:
    require_onnxruntime()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"]).run


def _reference(path: Path) -> Any:
    from onnx.reference import ReferenceEvaluator
    from onnx.reference.op_run import OpRun

    class BatchNormalization(OpRun):
        """Inference, whatever the opset: below 14, onnx's own takes a momentum for a sign of training."""

        def _run(self, x: Tensor, *parameters: Tensor, epsilon: float = 1e-5, **_: Any) -> tuple[Tensor]:
            scale, shift, mean, var = (array.reshape(-1, *[1] * (x.ndim - 2)) for array in parameters)
            return (((x - mean) / np.sqrt(var + epsilon) * scale + shift).astype(x.dtype),)

    return ReferenceEvaluator(str(path), new_ops=[BatchNormalization]).run


def _port(path: Path, value: ir.Value) -> Port:
    if not isinstance(value.type, ir.TensorType) or value.shape is None:
        raise ModelFileError(path, f"has an input or output {value.name!r} that is no tensor of known rank.")
    sizes = (size if isinstance(size, int) else size.value for size in value.shape)
    return Port(value.name or "", value.type.dtype, tuple(sizes))


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
