"""Fold a file into a file: the whole of `normfold fold`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from export.fold import fold
from export.onnx_file import load_model, save_model
from export.progress import Say, silent
from export.report import FoldReport
from export.staging import staged
from export.verify import Verification, verify


@dataclass(frozen=True)
class Folded:
    """What a fold did, and its proof unless that was left out."""

    report: FoldReport
    verification: Verification | None


def fold_file(
    source: Path,
    target: Path,
    proven: bool = True,
    inputs: Path | None = None,
    say: Say = silent,
) -> Folded:
    """Fold a model's BatchNormalization nodes and write the result, if it is proven.

    Args:
        source: the unfolded ONNX model.
        target: where the folded one goes; an existing file is replaced, as a whole.
        proven: compare both before the target is written.
        inputs: an .npz file to compare with; random inputs without it.
        say: called with what is being done, in words.

    Raises:
        ModelFileError, TrainingModeError: the model cannot be used.
        VerificationError: the folded model differs; the target is as it was.
        WriteError: the target cannot be written.
    """
    say("reading the model")
    model = load_model(source)
    say("folding")
    report = fold(model)
    with staged(target) as path:
        save_model(model, path)
        verification = None
        if proven:
            say("verifying")
            verification = verify(source, path, inputs)
            verification.require()
    return Folded(report, verification)
