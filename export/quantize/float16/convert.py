"""Convert a float32 ONNX file to float16."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import onnx
import onnx_ir as ir
import onnx_ir.passes.common as common_passes

from normfold.contract.atomic_write import atomic_path
from normfold.contract.errors import WriteError
from normfold.contract.progress import ProgressCallback, ignore_progress
from normfold.export.arrays import Tensor
from normfold.export.errors import Float16GraphError, ModelFileError
from normfold.export.graph.bodies import name_bodies
from normfold.export.graph.inference import infer_shapes
from normfold.export.onnx_io.model_file import load_model, save_model
from normfold.export.onnx_io.runtime_check import innermost, runtime_fault
from normfold.export.onnx_io.source_weights import keep_source_weights
from normfold.export.onnx_io.strip_weights import without_weights
from normfold.export.quantize.float16.batches import input_batches, input_magnitudes
from normfold.export.quantize.float16.emulate import Measured, measure
from normfold.export.quantize.float16.float32_nodes import LAYERS
from normfold.export.quantize.float16.overflow import (
    Magnitude,
    keep_not_finite,
    keep_overflowing,
    magnitudes_of,
    smallest_headroom,
)
from normfold.export.quantize.float16.plan import Plan
from normfold.export.quantize.float16.result import ChannelStatistics, Float16Result
from normfold.export.quantize.float16.rewrite import rewrite
from normfold.export.verify.runner import Inputs

_INTEGER_OPERATORS = ("QuantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "ConvInteger", "MatMulInteger")


def convert_to_float16(
    folded: Path,
    target: Path,
    *,
    keep_io: bool = True,
    statistics: Mapping[str, ChannelStatistics] | None = None,
    inputs: Mapping[str, Tensor] | None = None,
    progress: ProgressCallback = ignore_progress,
) -> Float16Result:
    """Convert a float32 network to float16, and write it if nothing overflows.

    Args:
        folded: the float32 ONNX file.
        target: where the float16 one goes; an existing file is replaced, as a whole.
        keep_io: inputs and outputs stay float32, with a Cast at each; without it they are float16.
        statistics: of values of the network, by name of the value; `|mean| + 8 std` must stay below 65504.
        inputs: one array for each input, with samples along the first axis; random ones without it.
        progress: called with each step as it begins.

    Returns:
        The nodes that stay in float32 with their reasons, the smallest headroom, and the emulated SQNR by output.

    Raises:
        ModelFileError: the file cannot be read or run, or holds nothing that can be computed in float16.
        ModelInputError: the inputs do not fit the network.
        Float16OverflowError: a value exceeds 65504; it names the node, the value and the magnitude.
        Float16GraphError: the result is not valid, a fault of the conversion.
        WriteError: the target cannot be written.
    """
    if not target.name or target.is_dir():
        raise WriteError(target, "it is a folder")
    progress("reading the model")
    model = _prepare(folded)
    keep_source_weights(folded, target, model)
    plan = Plan(model.graph)
    _require_float16_nodes(folded, plan)
    progress("emulating float16")
    batches = input_batches(folded, plan, inputs)
    measured, magnitudes = _settle(folded, model, plan, keep_io, batches, statistics or {})
    _require_float16_nodes(folded, plan)
    result = Float16Result(
        float32_nodes=plan.float32_nodes(),
        float16_nodes=len(plan.slots),
        casts=0,
        headroom=smallest_headroom(magnitudes),
        sqnr_db={value.name: measured[value.name].sqnr_db for value in model.graph.outputs if value.name in measured},
        warnings=tuple(_warn_of_layers(plan)),
    )
    progress("converting to float16")
    casts = rewrite(model, plan, keep_io)
    _check(model)
    with atomic_path(target) as path:
        save_model(model, path)
        fault = runtime_fault(path)
        if fault is not None:
            raise Float16GraphError(f"ONNX Runtime refuses it: {fault}")
    return replace(result, casts=casts)


def _prepare(path: Path) -> ir.Model:
    """Read a model: types and shapes inferred, constants among the initializers."""
    model = load_model(path)
    name_bodies(model)
    infer_shapes(model)
    common_passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    quantised = next((node for node in model.graph.all_nodes() if node.op_type in _INTEGER_OPERATORS), None)
    if quantised is not None:
        raise ModelFileError(
            path, f"is quantised to integers (it holds {quantised.op_type}); give the float32 network it was made from."
        )
    return model


def _require_float16_nodes(path: Path, plan: Plan) -> None:
    if any(node.op_type != "Cast" for node in plan.slots):
        return
    if plan.reasons:
        kept = plan.float32_nodes()[0]
        text = f"has nothing that can be computed in float16: {kept.operator} {kept.node!r} stays in float32"
        raise ModelFileError(path, f"{text}; {kept.reason}.")
    dtypes = {value.dtype for node in plan.graph for value in node.outputs}
    for dtype in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16):
        if dtype in dtypes:
            raise ModelFileError(path, f"is in {dtype.name.lower()} already.")
    if ir.DataType.DOUBLE in dtypes:
        raise ModelFileError(path, "is in float64; only float32 networks are converted to float16.")
    raise ModelFileError(path, "computes nothing in float32, so there is nothing to convert to float16.")


def _settle(
    path: Path,
    model: ir.Model,
    plan: Plan,
    keep_io: bool,
    batches: Sequence[Inputs],
    statistics: Mapping[str, ChannelStatistics],
) -> tuple[dict[str, Measured], dict[ir.Value, Magnitude]]:
    """Keep nodes in float32 until nothing overflows; return what the emulation of the plan shows."""
    by_value = {each.folded_value or name: each for name, each in statistics.items()}
    reached = input_magnitudes(batches)
    while True:
        measured = measure(path, model, plan, keep_io, batches)
        magnitudes = magnitudes_of(plan, measured, reached, by_value, keep_io)
        if not keep_overflowing(plan, magnitudes, keep_io) and not keep_not_finite(plan, measured):
            return measured, magnitudes


def _warn_of_layers(plan: Plan) -> Iterator[str]:
    kept = [node for node in plan.reasons if node.op_type in LAYERS]
    count = len(kept) + sum(node.op_type in LAYERS for node in plan.slots)
    if 2 * len(kept) > count:
        yield f"{len(kept)} of {count} layers stay in float32: the network gains little in float16."


def _check(model: ir.Model) -> None:
    """Check the result by onnx's checker, and that its types agree.

    Raises:
        Float16GraphError: they do not.
    """
    proto = without_weights(model)
    try:
        onnx.checker.check_model(proto)
        onnx.shape_inference.infer_shapes(proto, check_type=True)
    except Exception as error:  # noqa: BLE001 -- both raise many kinds
        raise Float16GraphError(innermost(error)) from None
