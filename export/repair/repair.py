"""Repair a file whose BatchNormalization nodes normalise by the batch: write one that normalises by statistics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import onnx_ir as ir
import onnx_ir.passes.common as common_passes

from normfold.contract.atomic_write import atomic_path
from normfold.contract.errors import WriteError
from normfold.contract.preprocess import Preprocessing
from normfold.contract.progress import ProgressCallback, ignore_progress
from normfold.export.adapt.read_samples import read_samples_of_file
from normfold.export.adapt.recalibrate import recalibrate
from normfold.export.adapt.samples import Samples, require_usable
from normfold.export.errors import ModelFileError, RepairError
from normfold.export.graph.constant_folding.simplify import compute_constants
from normfold.export.graph.editor import Editor
from normfold.export.graph.inference import infer_shapes
from normfold.export.onnx_io.model_file import check_result, load_model, save_model
from normfold.export.onnx_io.source_weights import keep_source_weights
from normfold.export.repair.modes import (
    BatchStatistics,
    Cause,
    find_active_dropouts,
    find_batch_statistics,
    set_inference_mode,
    set_placeholders,
)
from normfold.export.verify.runner import Runner


class Origin(StrEnum):
    """Where the statistics of a repaired BatchNormalization come from."""

    STORED = "stored"
    SAMPLES = "samples"


@dataclass(frozen=True)
class RepairedNode:
    """A BatchNormalization that normalised by the batch, and what it normalises by now."""

    node: str
    cause: Cause
    statistics: Origin

    def to_dict(self) -> dict[str, str]:
        """Return plain types for JSON."""
        return {"node": self.node, "cause": self.cause.value, "statistics": self.statistics.value}


@dataclass(frozen=True)
class RepairedFile:
    """Every node that was repaired, in graph order, outputs that the model no longer has, and warnings."""

    nodes: tuple[RepairedNode, ...]
    removed_outputs: tuple[str, ...]
    warnings: tuple[str, ...]


def repair_file(
    source: Path,
    target: Path,
    samples: Path | None = None,
    preprocessing: Preprocessing | None = None,
    as_tensors: bool | None = None,
    progress: ProgressCallback = ignore_progress,
) -> RepairedFile:
    """Put the BatchNormalization nodes of a file that normalise by the batch into inference mode, and write the result.

    Args:
        source: the model, from any exporter.
        target: path of the repaired model; an existing file is replaced, as a whole.
        samples: what new statistics are taken from (`export.adapt.read_samples`); None for the stored ones.
        preprocessing: of the model's card; None where samples are tensors.
        as_tensors: whether an .npz holds tensors; None to decide by the names of its arrays.
        progress: called with each step as it begins.

    Raises:
        ModelFileError: the model cannot be used, or the result cannot be run.
        RepairError: there are no samples and a node has no statistics of its own, or the batch's statistics are read.
        SampleError, PixelError, ModelInputError: the samples cannot be read.
        NotAdaptableError: statistics cannot be taken from the samples.
        AdaptationError: the samples are too few, too many, all the same, or their first half is not like their second.
        WriteError: the target cannot be written.
    """
    if not target.name or target.is_dir():
        raise WriteError(target, "it is a folder")
    progress("reading the model")
    model = load_model(source)
    keep_source_weights(source, target, model)
    found = _find(model)
    if not found:
        model = load_model(source)
    if samples is None:
        _require_statistics(found)
    else:
        progress("reading the samples")
        given = read_samples_of_file(samples, source, model, preprocessing, as_tensors)
        require_usable(given)
    removed = tuple(name for each in found for name in set_inference_mode(model, each.node))
    warnings = _warnings(found, removed, find_active_dropouts(model), with_samples=samples is not None)
    if samples is not None and found:
        warnings += given.warnings
        _take_from_samples(model, found, given, progress)
    if found:
        common_passes.RemoveUnusedNodesPass()(model)
    check_result(model)
    with atomic_path(target) as path:
        save_model(model, path)
        try:
            Runner(path)
        except ModelFileError as error:
            raise ModelFileError(target, error.problem) from None
    origin = Origin.STORED if samples is None else Origin.SAMPLES
    return RepairedFile(tuple(RepairedNode(each.label, each.cause, origin) for each in found), removed, tuple(warnings))


def _find(model: ir.Model) -> list[BatchStatistics]:
    """Return the nodes that normalise by the batch; what the exporter left to be computed is computed first."""
    common_passes.InlinePass()(model)
    infer_shapes(model, afresh=True)
    compute_constants(model)
    return find_batch_statistics(model)


def _require_statistics(found: Sequence[BatchStatistics]) -> None:
    unset = [each for each in found if not each.has_statistics]
    if not unset:
        return
    reasons = {
        Cause.COMPUTED: "computes its statistics from the batch",
        Cause.TRAINING_MODE: "is in training mode, with statistics that were never set or are not finite",
    }
    first = f"BatchNormalization {unset[0].label!r} {reasons[unset[0].cause]}"
    others = f" (and {len(unset) - 1} more)" if len(unset) > 1 else ""
    raise RepairError(
        f"{first}{others}: there are none to normalise by. Give inputs of the network to take them from: "
        "`samples`, a folder, an .npz or a .csv."
    )


def _take_from_samples(
    model: ir.Model, found: Sequence[BatchStatistics], samples: Samples, progress: ProgressCallback
) -> None:
    """Give each node the statistics of its input on the samples, layer after layer."""
    editor = Editor(model.graph)
    for each in found:
        if each.cause is Cause.COMPUTED or not each.has_statistics:
            set_placeholders(editor, each.node)
    only = {each.node for each in found}
    recalibrate(model, samples, prior=0.0, only=only, progress=progress).require()


def _warnings(
    found: Sequence[BatchStatistics], removed: Sequence[str], dropouts: Sequence[str], with_samples: bool
) -> list[str]:
    warnings = []
    if found and not with_samples:
        names = ", ".join(repr(each.label) for each in found)
        warnings.append(
            f"The outputs change: BatchNormalization {names} normalised by the batch, and now by the statistics that "
            "the file holds. If training never finished them, they are wrong: compare the accuracy, or take new ones "
            "with `samples`."
        )
    if dropouts:
        names = ", ".join(map(repr, dropouts))
        warnings.append(f"Still in training mode, setting values to 0 by chance: Dropout {names}. Export it again.")
    if removed:
        names = ", ".join(map(repr, removed))
        warnings.append(f"Outputs of updated statistics were removed, since nothing updates them any more: {names}.")
    return warnings
