"""`normfold.fold`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from normfold._shared.argument_checks import FLAG, PATH, check, check_optional
from normfold._shared.overwrite import is_same_file, require_other_file
from normfold._shared.packages import require_export
from normfold._shared.paths import AnyPath, optional_path
from normfold._shared.progress import Progress, progress_callback
from normfold._shared.results import verification_sentence
from normfold.errors import ArgumentError

if TYPE_CHECKING:
    from normfold.export.fold.report import FoldReport
    from normfold.export.verify.timing import Timing
    from normfold.export.verify.verify import Verification


@dataclass(frozen=True, repr=False)
class FoldResult:
    """The result of `fold`.

    Attributes:
        source: the unfolded model.
        target: the folded one.
        report: the outcome of each BatchNormalization, in graph order.
        verification: the comparison of both models; None if it was omitted.
        timing: milliseconds that a run takes before and after; None if it was omitted, or is not possible.
    """

    source: Path
    target: Path
    report: FoldReport
    verification: Verification | None
    timing: Timing | None = None

    def __repr__(self) -> str:
        from normfold.display.terminal.fold import fold_sentence

        return (
            f"FoldResult({str(self.target)!r}: {fold_sentence(self.report)} {verification_sentence(self.verification)})"
        )

    def _repr_html_(self) -> str | None:
        """Return the page of `normfold inspect --html` for notebooks; None where the source is gone."""
        if not self.source.is_file() or is_same_file(self.source, self.target):
            return None
        from normfold.display.pages.facts import gather_facts
        from normfold.display.pages.fold_page import fold_page
        from normfold.display.pages.notebook import embed

        facts = gather_facts(self.source, False, lambda _: None)
        return embed(fold_page(replace(facts, verification=self.verification)))


def fold(
    source: AnyPath,
    target: AnyPath,
    *,
    verify: bool = True,
    inputs: AnyPath | None = None,
    takes_pixels: bool = False,
    card: AnyPath | None = None,
    merge: bool = True,
    freeze_inputs: bool = False,
    time: bool = False,
    force: bool = False,
    progress: Progress = False,
) -> FoldResult:
    """Fold the BatchNormalization nodes of an ONNX file into the weights around them::

        y = scale * (x - running_mean) / sqrt(running_var + epsilon) + shift = gain * x + offset

    This is a per-channel affine, which a Conv, Gemm or MatMul before or after it can absorb. The folded model is
    compared with the original before it is written. It may differ by 8 times the network's own rounding noise, plus
    1e-6 of an output's range (for float32; see `normfold.verify`).

    Source: Ioffe & Szegedy 2015, arXiv:1502.03167, section 3.1; ONNX BatchNormalization, training_mode=0.

    Example:
        >>> import normfold
        >>> result = normfold.fold("resnet50.onnx", "folded.onnx")
        >>> result.report.batchnorm_before, result.report.batchnorm_after
        (53, 0)

    Args:
        source: the unfolded model, from any exporter; below opset 7 it is converted first, and the report says so.
        target: path of the folded model to write; an existing file is replaced atomically, a file that is read only
            with `force`.
        verify: compare both models before `target` is written.
        inputs: an .npz to verify with, one array for each input in its dtype and shape; random inputs without it.
        takes_pixels: make the input uint8 pixels, 0 to 255, and fold their standardisation too.
        card: with `takes_pixels`, the source card, a JSON file that describes how pixels are standardised. Without it,
            the card next to the model is read; if there is none, the model's own arithmetic is folded.
        merge: merge parallel linear branches into one layer (RepVGG re-parameterisation).
        freeze_inputs: make constants of inputs that have a default: callers can no longer override those weights.
        time: also time a run of each, on one thread, with ONNX Runtime's optimisations on.
        force: write over `source` if `target` is the same file.
        progress: True shows each step on standard error; a function is called with each step, in words.

    Raises:
        MissingPackageError, RuntimePackageError: the extra `export` or an ONNX Runtime is not installed.
        ArgumentError: an argument cannot be used, `card` is given without `takes_pixels`, or `target` is `source`.
        ModelFileError, TrainingModeError, PixelError, ManifestError: the model or its card cannot be used.
        ModelInputError: the inputs do not fit, or none can be made.
        VerificationError: the folded model differs; `target` is unchanged.
        WriteError: `target` cannot be written.
    """
    check(PATH, source=source, target=target)
    check_optional(PATH, inputs=inputs, card=card)
    check(FLAG, verify=verify, takes_pixels=takes_pixels, merge=merge, freeze_inputs=freeze_inputs, time=time)
    check(FLAG, force=force)
    require_export("normfold fold")
    from normfold._shared.source import read_card
    from normfold.export.files.fold_file import fold_file
    from normfold.export.graph.pixels import from_pixels

    if card is not None and not takes_pixels:
        raise ArgumentError("`card` goes with `takes_pixels`: it says how pixels are standardised.")
    require_other_file(target, source, inputs, card, force=force)
    model, folded = Path(source), Path(target)
    pixels = from_pixels(read_card(model, optional_path(card)).preprocessing) if takes_pixels else None
    with progress_callback(progress) as progress:
        found = fold_file(
            model,
            folded,
            verified=verify,
            merging=merge,
            timed=time,
            inputs=optional_path(inputs),
            pixels=pixels,
            frozen=freeze_inputs,
            progress=progress,
        )
    return FoldResult(model, folded, found.report, found.verification, found.timing)
