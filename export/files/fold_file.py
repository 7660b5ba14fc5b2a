"""Fold an ONNX file into another, verify the result, and only then write it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from normfold.contract.atomic_write import atomic_path
from normfold.contract.errors import WriteError
from normfold.contract.progress import ProgressCallback, ignore_progress
from normfold.export.errors import FoldError, ModelFileError
from normfold.export.fold.fold import fold
from normfold.export.fold.report import FoldReport
from normfold.export.graph.pixels import FromPixels
from normfold.export.onnx_io.model_file import load_model, require_consistent, save_model
from normfold.export.onnx_io.normalise import freeze_inputs
from normfold.export.onnx_io.source_weights import keep_source_weights
from normfold.export.verify.conversion import compare_conversion
from normfold.export.verify.timing import Timing, time_models
from normfold.export.verify.verify import Verification, verify


@dataclass(frozen=True)
class FoldedFile:
    """The report of a fold, and its verification and timing unless they were left out."""

    report: FoldReport
    verification: Verification | None
    timing: Timing | None = None


def fold_file(
    source: Path,
    target: Path,
    verified: bool = True,
    merging: bool = True,
    inputs: Path | None = None,
    timed: bool = False,
    pixels: FromPixels | None = None,
    frozen: bool = False,
    progress: ProgressCallback = ignore_progress,
) -> FoldedFile:
    """Fold a model's BatchNormalization nodes and write the result, if verification passes.

    Args:
        source: the unfolded ONNX model.
        target: where the folded one goes; an existing file is replaced, as a whole.
        verified: compare both before the target is written.
        merging: make one layer of parallel linear branches.
        inputs: an .npz file to compare with; random inputs without it.
        timed: time a run of each; where that is not possible, a warning says why.
        pixels: make the input 8-bit pixels, and fold their standardisation too.
        frozen: make constants of inputs that have a default.
        progress: called with each step as it begins.

    Raises:
        ModelFileError, TrainingModeError, PixelError: the model cannot be used.
        VerificationError: the folded model differs; the target is as it was.
        WriteError: the target cannot be written.
    """
    if not target.name or target.is_dir():
        raise WriteError(target, "it is a folder")
    progress("reading the model")
    model = load_model(source)
    keep_source_weights(source, target, model)
    if frozen:
        freeze_inputs(model)
    try:
        report = fold(model, progress, merging, pixels)
    except FoldError:
        require_consistent(source)
        raise
    with atomic_path(target) as path:
        save_model(model, path)
        verification = None
        if verified:
            progress("verifying")
            try:
                verification = verify(source, path, inputs, progress=progress, pixels=pixels)
            except ModelFileError as error:
                raise ModelFileError(target if error.path == path else error.path, error.problem) from None
            verification.require()
            if (sentence := compare_conversion(source)) is not None:
                report.warnings.append(sentence)
        timing = time_or_warn(source, path, report, inputs, pixels, progress) if timed else None
    return FoldedFile(report, verification, timing)


def time_or_warn(
    source: Path,
    folded: Path,
    report: FoldReport,
    inputs: Path | None = None,
    pixels: FromPixels | None = None,
    progress: ProgressCallback = ignore_progress,
) -> Timing | None:
    """Time both models; where that is not possible, add a warning to the report that says why."""
    try:
        return time_models(source, folded, inputs, pixels, progress)
    except ModelFileError as error:
        report.warnings.append(
            f"The models were not timed: the {'source' if error.path == source else 'folded model'} {error.problem}"
        )
    return None
