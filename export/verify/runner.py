"""Runners: a model run exactly as it is written, without the optimisations that would hide what a fold did."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from normfold.contract.atomic_write import temporary_folder
from normfold.contract.errors import SetupError
from normfold.contract.onnxruntime_package import require_onnxruntime
from normfold.export.arrays import Tensor
from normfold.export.errors import ModelFileError
from normfold.export.fold.stages.spatial import runs_on_reference_alone
from normfold.export.graph.constants import FLOATS
from normfold.export.graph.inference import infer_input_shapes
from normfold.export.graph.nodes import all_nodes
from normfold.export.onnx_io.model_file import IR_VERSION_IN_FILE, load_model, save_model

_QUANTISING = frozenset({"QuantizeLinear", "DynamicQuantizeLinear"})

_STEPPING = _QUANTISING | {
    *("Round", "Floor", "Ceil", "Sign", "Mod", "ThresholdedRelu", "Shrink"),
    *("Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal", "Not", "IsInf", "IsNaN", "Where"),
    *("ArgMax", "ArgMin", "Hardmax", "TopK", "NonMaxSuppression", "NonZero", "Unique"),
}
"""Operators whose output jumps where their input crosses a threshold, or that choose by such a jump."""

Inputs = Mapping[str, Tensor]
Outputs = dict[str, Tensor]


@dataclass(frozen=True)
class ValueInfo:
    """An input or output: name, dtype and shape.

    A size in `shape` is an int, a name for a free axis, or None for a free axis without one. Where not even the rank is
    known, `shape` is empty.
    """

    name: str
    dtype: ir.DataType
    shape: tuple[int | str | None, ...]
    rank_is_known: bool = True

    @property
    def rank(self) -> int | None:
        """Return the number of axes, or None if it is not known."""
        return len(self.shape) if self.rank_is_known else None

    def fits(self, shape: Sequence[int]) -> bool:
        """Return whether a tensor of this shape may stand here."""
        if not self.rank_is_known:
            return True
        sizes = zip(self.shape, shape, strict=False)
        return len(shape) == len(self.shape) and all(size == given for size, given in sizes if isinstance(size, int))


class Engine(StrEnum):
    """The engines that can run a model."""

    ONNXRUNTIME = "ONNX Runtime, on the CPU with graph optimisation off"
    REFERENCE = "onnx's reference evaluator"


class Runner:
    """A model ready to run.

    ONNX Runtime is asked first. What it cannot run goes through onnx's reference evaluator, slowly: opsets that are
    newer than it, and float64 models, since it has no float64 Conv on the CPU.

    Args:
        path: of the model.
        engine: what must run it, so that two models are compared on the same.

    Raises:
        ModelFileError: it cannot be read, or uses what the engine cannot run.
    """

    def __init__(self, path: Path, engine: Engine | None = None) -> None:
        model = load_model(path)
        self.path = path
        self.inputs, self.outputs = _infos_of_any_rank(path, model)
        self.rounds_at_once = _rounds_at_once(model, self.inputs)
        self.has_steps = any(node.op_type in _STEPPING for node in all_nodes(model.graph))
        self.engine, self._run, self._fault = _start(path, model, engine)

    def run(self, inputs: Inputs) -> Outputs:
        """Run once.

        Raises:
            ModelFileError: the run fails; the message holds the cause.
        """
        names = [info.name for info in self.outputs]
        try:
            results = self._run(names, {name: np.asarray(array) for name, array in inputs.items()})
        except Exception as error:  # noqa: BLE001 -- as above
            refused = f" (ONNX Runtime refuses it: {self._fault})" if self._fault else ""
            raise ModelFileError(self.path, f"failed to run: {in_one_line(error)}{refused}") from None
        return {name: np.asarray(result) for name, result in zip(names, results, strict=True)}


def input_infos(path: Path, model: ir.Model) -> list[ValueInfo]:
    """Return the inputs that a caller must give: those without a default among the initializers.

    Raises:
        ModelFileError: one is not a tensor, or of unknown rank.
    """
    return [value_info(path, value) for value in model.graph.inputs if not value.is_initializer()]


def _rounds_at_once(model: ir.Model, inputs: Sequence[ValueInfo]) -> bool:
    """Return whether the first rounding may remove a perturbation of the inputs by one unit in the last place."""
    if not all(info.dtype.is_floating_point() for info in inputs):
        return True
    widest = max((info.dtype.bitwidth for info in inputs), default=0)
    nodes = list(all_nodes(model.graph))
    weights = [value.dtype for value in model.graph.initializers.values()]
    casts = [ir.DataType(node.attributes.get_int("to", 0)) for node in nodes if node.op_type == "Cast"]
    narrower = any(dtype in FLOATS and dtype.bitwidth < widest for dtype in (*weights, *casts) if dtype is not None)
    return narrower or any(node.op_type in _QUANTISING for node in nodes)


def _start(path: Path, model: ir.Model, wanted: Engine | None) -> tuple[Engine, Any, str]:
    """Return the engine that runs a model, its run function, and why the engine before it does not."""
    tensors = [value.const_value for value in model.graph.initializers.values()]
    dtypes = {value.dtype for value in model.graph.inputs} | {tensor.dtype for tensor in tensors if tensor is not None}
    reference_alone = ir.DataType.DOUBLE in dtypes or runs_on_reference_alone(model)
    engines = [wanted] if wanted else list(Engine)[reference_alone:]
    first_fault = ""
    for engine in engines:
        try:
            run = start_onnxruntime(path, model) if engine is Engine.ONNXRUNTIME else _reference(path)
            return engine, run, first_fault
        except SetupError:
            raise
        except Exception as error:  # noqa: BLE001 -- both raise many kinds for a model they do not know
            first_fault = first_fault or in_one_line(error)
    raise ModelFileError(path, f"cannot be run by {engines[0].value}: {first_fault}")


def start_onnxruntime(path: Path, model: ir.Model, optimised: bool = False) -> Any:
    """Return the run function of a session on the CPU.

    Args:
        path: of the model's file.
        model: what the file holds.
        optimised: run it on one thread with all optimisations; without it, exactly as it is written.
    """
    require_onnxruntime()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    with temporary_folder() as folder:
        if model.meta[IR_VERSION_IN_FILE] != model.ir_version:
            path = folder / "model.onnx"
            save_model(model, path)
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


def _infos_of_any_rank(path: Path, model: ir.Model) -> tuple[list[ValueInfo], list[ValueInfo]]:
    """Return the inputs and outputs of a file, as far as it states their shapes or these follow from its nodes.

    Raises:
        ModelFileError: one is not a tensor.
    """
    stated = (*model.graph.inputs, *model.graph.outputs)
    if any(value.shape is None or value.type is None for value in stated):
        model = load_model(path)  # a second one, as the first is run as it is written
        infer_input_shapes(model)
    graph = model.graph
    return (
        [_info(path, value) for value in graph.inputs if not value.is_initializer()],
        [_info(path, value) for value in graph.outputs],
    )


def _info(path: Path, value: ir.Value) -> ValueInfo:
    if isinstance(value.type, ir.TensorType) and value.shape is None:
        return ValueInfo(value.name or "", value.type.dtype, (), rank_is_known=False)
    return value_info(path, value)


def value_info(path: Path, value: ir.Value) -> ValueInfo:
    """Return name, dtype and shape of an input or output of a file.

    Raises:
        ModelFileError: it is not a tensor, or of unknown rank.
    """
    if not isinstance(value.type, ir.TensorType) or value.shape is None:
        raise ModelFileError(path, f"has an input or output {value.name!r} that is not a tensor of known rank.")
    sizes = (_size(size if isinstance(size, int) else size.value) for size in value.shape)
    return ValueInfo(value.name or "", value.type.dtype, tuple(sizes))


def _size(size: int | str | None) -> int | str | None:
    """Return a size; a negative one, as older exporters wrote, is free."""
    return None if isinstance(size, int) and size < 0 else size


def in_one_line(error: BaseException) -> str:
    """Return an error's message in one line, without ONNX Runtime's place in its own source."""
    return re.sub(r"(?<=:)\S*/onnxruntime/\S+ .*\) (?=[A-Z])", " ", " ".join(str(error).split()))
