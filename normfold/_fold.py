"""`normfold.fold`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from normfold._shared.argument_checks import FLAG, PATH, check, check_optional
from normfold._shared.overwrite import is_same_file, require_other_file
from normfold._shared.packages import require_export
from normfold._shared.paths import AnyPath, optional_path
from normfold._shared.progress import Progress, progress_callback
from normfold._shared.results import verification_sentence
from normfold._shared.sources.resolve import files_of, resolved
from normfold._shared.sources.source import Source
from normfold.errors import ArgumentError

if TYPE_CHECKING:
    from torch import nn

    from normfold.contract.source_card import RunningStatistics
    from normfold.export.fold.report import FoldReport
    from normfold.export.verify.timing import Timing
    from normfold.export.verify.verify import Verification


@dataclass(frozen=True, repr=False)
class FoldResult:
    """The result of `fold`.

    Attributes:
        source: the unfolded model, as it was given.
        target: the folded one.
        report: the outcome of each BatchNormalization, in graph order.
        verification: the comparison of both models; None if it was omitted.
        timing: milliseconds that a run takes before and after; None if it was omitted, or is not possible.
        running_statistics: how recalibration changed those of a run folder; None if they are as they were.
    """

    source: Path
    target: Path
    report: FoldReport
    verification: Verification | None
    timing: Timing | None = None
    running_statistics: RunningStatistics | None = None

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
    source: AnyPath | nn.Module,
    target: AnyPath,
    *,
    verify: bool = True,
    inputs: AnyPath | None = None,
    takes_pixels: bool = False,
    card: AnyPath | None = None,
    merge: bool = True,
    freeze_inputs: bool = False,
    time: bool = False,
    weights: AnyPath | None = None,
    weights_key: str | None = None,
    strip_prefix: str | None = None,
    partial: bool = False,
    input_shape: str | Sequence[int] | None = None,
    arguments: Mapping[str, Any] | Sequence[str] = (),
    keep_statistics: bool = False,
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
        source: the unfolded model: an ONNX file from any exporter (below opset 7 it is converted first, and the report
            says so), a run folder, a bundle, a torch network in eval mode, or module:factory, a function that returns
            one. The running statistics of a run folder are first recalibrated, as by `export`.
        target: path of the folded model to write; an existing file is replaced atomically, a file that is read only
            with `force`.
        verify: compare both models before `target` is written.
        inputs: an .npz to verify with, one array for each input in its dtype and shape; random inputs without it.
        takes_pixels: make the input uint8 pixels, 0 to 255, and fold their standardisation too.
        card: with `takes_pixels`, the source card, a JSON file that describes how pixels are standardised. Without it,
            the card of the source is read; if there is none, the model's own arithmetic is folded.
        merge: merge parallel linear branches into one layer (RepVGG re-parameterisation).
        freeze_inputs: make constants of inputs that have a default: callers can no longer override those weights.
        time: also time a run of each, on one thread, with ONNX Runtime's optimisations on.
        weights: of a factory's network: .safetensors, or a state dict or checkpoint of torch.save. No code in it runs.
        weights_key: of the state dict in that file, such as "state_dict_ema", if it holds several.
        strip_prefix: before the network's names in that file; found by itself if all names have it.
        partial: load of that file what fits; warns of the rest.
        input_shape: of one sample of your own network, without the axis of rows: (3, 224, 224).
        arguments: of the factory, by name; or as texts NAME=VALUE.
        keep_statistics: do not recalibrate the running mean and variance of a run folder.
        force: write over `source` if `target` is the same file.
        progress: True shows each step on standard error; a function is called with each step, in words.

    Raises:
        MissingPackageError, RuntimePackageError: the extra `export` or an ONNX Runtime is not installed.
        ArgumentError: there is no such source, an argument does not go with it, or `target` is a file that is read.
        ModelFileError, TrainingModeError, PixelError, ManifestError: the model or its card cannot be used.
        WeightsError, ArchitectureError, OnnxExportError: a torch network cannot be loaded or exported.
        RepositoryError, DamagedVersionError: the bundle is not there, or not what was exported.
        ModelInputError: the inputs do not fit, or none can be made.
        VerificationError: the folded model differs; `target` is unchanged.
        WriteError: `target` cannot be written.
    """
    check(PATH, target=target)
    check_optional(PATH, inputs=inputs, card=card)
    check(FLAG, verify=verify, takes_pixels=takes_pixels, merge=merge, freeze_inputs=freeze_inputs, time=time)
    check(FLAG, force=force, keep_statistics=keep_statistics)
    given = Source.of(
        source,
        card=optional_path(card),
        weights=weights,
        weights_key=weights_key,
        strip_prefix=strip_prefix,
        partial=partial,
        input_shape=input_shape,
        arguments=arguments,
        keep_statistics=keep_statistics,
    )
    require_export("normfold fold")
    from normfold.export.files.fold_file import fold_file
    from normfold.export.graph.pixels import from_pixels

    if card is not None and not takes_pixels:
        raise ArgumentError("`card` goes with `takes_pixels`: it says how pixels are standardised.")
    require_other_file(target, *files_of(given), inputs, card, force=force)
    with progress_callback(progress) as progress, resolved(given, progress) as unfolded:
        found = fold_file(
            unfolded.path,
            Path(target),
            verified=verify,
            merging=merge,
            timed=time,
            inputs=optional_path(inputs),
            pixels=from_pixels(unfolded.card.preprocessing) if takes_pixels else None,
            frozen=freeze_inputs,
            progress=progress,
        )
    statistics = unfolded.card.running_statistics if given.is_run else None
    return FoldResult(Path(given.text), Path(target), found.report, found.verification, found.timing, statistics)
