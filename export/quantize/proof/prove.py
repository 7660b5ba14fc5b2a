"""Compare a network of lower precision with the folded float32 network that it was made of."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from normfold.contract.outputs.task import OutputTask
from normfold.contract.precision.check_inputs import make_check_inputs
from normfold.contract.precision.processor import processor_name
from normfold.contract.precision.record import PrecisionProof
from normfold.contract.precision.signal_to_noise import MAX_DB
from normfold.contract.progress import ProgressCallback, ignore_progress
from normfold.export.bundle.tensor_specs import input_specs
from normfold.export.errors import ModelFileError
from normfold.export.onnx_io.model_file import load_model
from normfold.export.quantize.float16.result import Float16Result
from normfold.export.quantize.int8.result import Int8Result, RangeSource
from normfold.export.quantize.int8.saturation import saturation
from normfold.export.quantize.proof.fused import fused_signal_to_noise
from normfold.export.quantize.proof.outputs import (
    Run,
    clipped_probabilities,
    compare_outputs,
    greatest_drop,
    lowest_agreement,
    value_change,
)
from normfold.export.quantize.proof.rows import BATCH_ROWS, ProofRows, fixed_batch_size
from normfold.export.quantize.proof.sessions import open_network
from normfold.export.quantize.proof.time_ratio import measure_time_ratio
from normfold.export.quantize.proof.worst_layer import find_worst_layer
from normfold.export.verify.runner import ValueInfo, input_infos


@dataclass(frozen=True)
class Pair:
    """The two networks, and what is known of both.

    Attributes:
        reference: the folded float32 network.
        converted: the network of lower precision.
        sample_shape: of one row of the one input, where a card says it.
        classes: outputs that hold logits or probabilities.
        batchable: rows are independent.
        task: what an output means that holds no classes.
    """

    reference: Path
    converted: Path
    sample_shape: Sequence[int] | None = None
    classes: tuple[str, ...] = ()
    batchable: bool = True
    task: OutputTask | None = None


def prove_int8(
    pair: Pair, result: Int8Result, rows: ProofRows, progress: ProgressCallback = ignore_progress
) -> PrecisionProof:
    """Return the proof of an int8 network.

    Args:
        pair: the two networks.
        result: of the quantisation.
        rows: to compare them on.
        progress: called with each step as it begins.

    Raises:
        ModelFileError: a network cannot be run.
        ModelInputError: there are fewer rows than the network takes at once.
        WriteError: the temporary folder cannot be written.
    """
    compared = _Compared.of(pair, rows, progress)
    progress("comparing the layers")
    equalised = {name for each in result.equalised for name in each.values}
    worst = find_worst_layer(pair.reference, pair.converted, rows, equalised)
    progress("comparing runs with and without optimisations")
    unfused = open_network(pair.converted, optimised=False)
    infos = compared.infos
    fused = [fused_signal_to_noise(compared.after, unfused, rows, infos, pair.batchable)]
    check = make_check_inputs(input_specs(load_model(pair.converted)), pair.sample_shape)
    if check is not None:
        with suppress(ModelFileError):  # a size that the network does not take; the service skips the check then, too
            fused.append(fused_signal_to_noise(compared.after, unfused, ProofRows(check), infos, pair.batchable))
    return compared.proof.model_copy(
        update={
            "worst_layer": worst,
            "pair_sum": float(max((layer.product for layer in saturation(onnx.load(pair.converted))), default=0)),
            "fused_sqnr_db": min(fused),
            "notes": (*result.warnings, *(compared.clipped if result.range_source is RangeSource.STATISTICS else ())),
        }
    )


def prove_float16(
    pair: Pair, result: Float16Result, rows: ProofRows, progress: ProgressCallback = ignore_progress
) -> PrecisionProof:
    """Return the proof of a float16 network; its ratios are those of the conversion's emulation.

    ONNX Runtime's CPU provider computes float16 in float32, so that its outputs say nothing about a GPU's.

    Args:
        pair: the two networks.
        result: of the conversion.
        rows: to compare classes on.
        progress: called with each step as it begins.

    Raises:
        ModelFileError: a network cannot be run.
        ModelInputError: there are fewer rows than the network takes at once.
    """
    compared = _Compared.of(pair, rows, progress)
    kept = [f"Node {one.node!r} ({one.operator}) stays in float32: {one.reason}" for one in result.float32_nodes]
    emulated = {name: float(np.clip(decibels, -MAX_DB, MAX_DB)) for name, decibels in result.sqnr_db.items()}
    progress("comparing the layers")
    worst = find_worst_layer(pair.reference, pair.converted, rows, changed=())
    return compared.proof.model_copy(
        update={"outputs": emulated, "worst_layer": worst, "notes": (*result.warnings, *kept)}
    )


@dataclass(frozen=True)
class _Compared:
    """What a proof of either precision holds, and the run function of the network of lower precision."""

    after: Run
    infos: list[ValueInfo]
    proof: PrecisionProof
    clipped: list[str]
    """A sentence for each output of probabilities."""

    @staticmethod
    def of(pair: Pair, rows: ProofRows, progress: ProgressCallback) -> _Compared:
        before, after = (open_network(path, optimised=True) for path in (pair.reference, pair.converted))
        infos = input_infos(pair.reference, load_model(pair.reference))
        found = compare_outputs(before, after, rows, infos, pair.classes, pair.batchable, progress, pair.task)
        progress("timing both networks")
        fixed = fixed_batch_size(infos)
        counts = [fixed] if fixed is not None else [1, BATCH_ROWS] if pair.batchable else [1]
        proof = PrecisionProof(
            processor=processor_name(),
            rows=rows.count,
            rows_from=rows.origin,
            outputs={name: each.signal_to_noise.db for name, each in found.items() if each.is_float},
            agreement=lowest_agreement(found),
            accuracy=greatest_drop(found),
            values=value_change(found),
            time_ratio={count: _time_ratio(before, after, rows, count) for count in counts},
            size_ratio=file_bytes(pair.converted) / file_bytes(pair.reference),
        )
        return _Compared(after, infos, proof, clipped_probabilities(found))


def _time_ratio(before: Run, after: Run, rows: ProofRows, count: int) -> float:
    inputs = rows.repeated(count)
    return measure_time_ratio(lambda: before(inputs), lambda: after(inputs))


def file_bytes(path: Path) -> int:
    """Return the bytes of a model's file and of the file that holds its weights, if it has one."""
    weights = path.with_name(f"{path.name}.data")
    return path.stat().st_size + (weights.stat().st_size if weights.exists() else 0)
