"""`normfold.quantize`: a network in a lower precision, with a proof of how near it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from normfold._shared.argument_checks import FLAG, NUMBER, PATH, TEXT, VERSION, check, check_as_tensors, check_optional
from normfold._shared.overwrite import require_other_file
from normfold._shared.packages import require_export
from normfold._shared.paths import AnyPath, optional_path
from normfold._shared.progress import Progress, progress_callback
from normfold._shared.sources.bundle import is_model, is_run_folder, place_of, usual_repository
from normfold._shared.sources.resolve import files_of, require_torch_source, resolved
from normfold._shared.sources.source import WEIGHTS_ENDINGS, Source, check_arguments
from normfold.errors import ArgumentError

if TYPE_CHECKING:
    from torch import nn

    from normfold.contract.manifest import Manifest
    from normfold.contract.precision.record import Precision, PrecisionProof
    from normfold.export.fold.report import FoldReport
    from normfold.export.precision.options import PrecisionOptions

LowerPrecisionName = Literal["int8", "float16"]
RangeSourceName = Literal["statistics", "recorded", "samples"]


@dataclass(frozen=True, repr=False)
class QuantizeResult:
    """The result of `quantize`.

    Attributes:
        path: of the file, or REPOSITORY/NAME/VERSION.
        precision: kind, recipe and proof.
        manifest: of the new version; None for a file.
        report: of the fold; None for a version, which was folded before.
        warnings: about the samples, one sentence each.
    """

    path: Path
    precision: Precision
    manifest: Manifest | None = None
    report: FoldReport | None = None
    warnings: tuple[str, ...] = ()

    @property
    def proof(self) -> PrecisionProof:
        """The comparison with the folded float32 network."""
        return self.precision.proof

    def to_html(self) -> str:
        """Return a self-contained page of the proof."""
        from normfold.display.pages.fold_page import precision_page

        return precision_page(str(self.path), self.precision)

    def __repr__(self) -> str:
        from normfold.display.terminal.precision import precision_sentence

        return f"QuantizeResult({str(self.path)!r}: {precision_sentence(self.precision)})"

    def _repr_html_(self) -> str:
        from normfold.display.pages.notebook import embed

        return embed(self.to_html())


def quantize(
    source: AnyPath | nn.Module,
    target: AnyPath | None = None,
    *,
    precision: LowerPrecisionName = "int8",
    samples: AnyPath | None = None,
    as_tensors: bool | None = None,
    ranges: RangeSourceName | None = None,
    repository: AnyPath | None = None,
    version: int | None = None,
    card: AnyPath | None = None,
    inputs: AnyPath | None = None,
    max_drop: float | None = None,
    weights: AnyPath | None = None,
    weights_key: str | None = None,
    strip_prefix: str | None = None,
    partial: bool = False,
    input_shape: str | Sequence[int] | None = None,
    arguments: Mapping[str, Any] | Sequence[str] = (),
    keep_statistics: bool = False,
    force: bool = False,
    float16_io: bool = False,
    keep_reference: bool = True,
    progress: Progress = False,
) -> QuantizeResult:
    """Write a network in int8 or float16, with a proof of how near it is to the folded float32 network.

    Of a model in a repository a new version is published. Any other source is folded on the way, and the result is
    written to `target`. No data are needed: ranges of activations are those that `export` recorded on the training
    data of a run folder, or `adapt` on its samples. Where there are none, they come from the BatchNormalization
    statistics that the fold removed::

        mean = shift        std = |scale| * sqrt(running_var / (running_var + epsilon))

    With samples, ranges are those of every second sample, and the others compare both networks.

    Source: Nagel et al. 2019, arXiv:1906.04721.

    Example:
        >>> import normfold
        >>> normfold.quantize("model_repository/digits").path
        PosixPath('model_repository/digits/2')
        >>> normfold.quantize("resnet50.onnx", "resnet50.int8.onnx").proof.size_ratio
        0.26

    Args:
        source: REPOSITORY/NAME or name of a model, which gets a new version; or a float32 ONNX file, which ends in
            .onnx, a run folder, a torch network in eval mode or module:factory, a function that returns one, for a
            file. The running statistics of a run folder are first recalibrated, as by `export`.
        target: for a file: path of the model to write; an existing file is replaced as a whole, a file that is read
            only with `force`.
        precision: "int8" or "float16".
        samples: inputs as `adapt` reads them: a folder of images, an .npz (raw inputs "x", or tensors named like the
            network's inputs; "y" may hold their classes, as numbers or as the card's labels), a .csv, or the state
            folder of a service that keeps inputs.
        as_tensors: whether an .npz holds tensors; derived from the names of its arrays without it.
        ranges: of activations, from "statistics" or "samples", or those "recorded"; without it, from the samples if
            there are some, otherwise recorded ones if there are some, otherwise from statistics.
        repository: folder of models, for a name alone; NORMFOLD_REPOSITORY or "model_repository" without it.
        version: of the model; the newest without it.
        card: for a file: the source card (JSON): preprocessing, labels, which outputs are logits; the one beside the
            model without it.
        inputs: for a file: an .npz to verify the fold with, one array for each input; random inputs without it.
        max_drop: largest loss of accuracy where the samples have labels, otherwise of agreement in class; 0.01 without
            it. It needs samples, and an output that holds classes.
        weights: of a factory's network: .safetensors, or a state dict or checkpoint of torch.save. No code in it runs.
        weights_key: of the state dict in that file, such as "state_dict_ema", if it holds several.
        strip_prefix: before the network's names in that file; found by itself if all names have it.
        partial: load of that file what fits; warns of the rest.
        input_shape: of one sample of your own network, without the axis of rows: (3, 224, 224).
        arguments: of the factory, by name; or as texts NAME=VALUE.
        keep_statistics: do not recalibrate the running mean and variance of a run folder.
        force: write an int8 network that is not faster on this processor; write over a file that is read if `target`
            is that.
        float16_io: make inputs and outputs float16 too.
        keep_reference: keep the float32 network in the new version; it can be converted again from that.
        progress: True shows each step on standard error; a function is called with each step, in words.

    Raises:
        MissingPackageError, RuntimePackageError: the extra `export` or an ONNX Runtime is not installed.
        ArgumentError: an argument is for the other kind of source, or for the other precision.
        ModelFileError, TrainingModeError, ManifestError: the model or its card cannot be used.
        QuantizeError: there is nothing to convert, or nothing to take ranges from.
        RepositoryError: there is no such model or version.
        DamagedVersionError: the version is not what was exported.
        SampleError, PixelError, ModelInputError: the samples or inputs cannot be used.
        AdaptationError: the samples are too few, too many, or all alike.
        VerificationError: the folded model differs; nothing was written.
        Float16OverflowError: a value exceeds what float16 can hold; nothing was written.
        PrecisionLossError: the result is too far from float32, or not faster; nothing was written.
        WriteError: `target` or the repository cannot be written.
    """
    check_optional(PATH, target=target, samples=samples, repository=repository, card=card, inputs=inputs)
    check(TEXT, precision=precision)
    check_optional(TEXT, ranges=ranges)
    check_optional(VERSION, version=version)
    check_optional(NUMBER, max_drop=max_drop)
    check_optional(FLAG, as_tensors=as_tensors)
    check(FLAG, force=force, float16_io=float16_io, keep_reference=keep_reference)
    require_export("normfold quantize")
    given = Source.of(
        source,
        card=optional_path(card),
        weights=optional_path(weights),
        weights_key=weights_key,
        strip_prefix=strip_prefix,
        partial=partial,
        input_shape=input_shape,
        arguments=arguments,
        keep_statistics=keep_statistics,
    )
    is_file = _makes_a_file(given, target)
    _check_arguments(
        is_file, given, target, {"repository": repository, "version": version}, {"card": card, "inputs": inputs}
    )
    check_arguments(given)
    if target is not None:
        require_other_file(target, *files_of(given), samples, card, inputs, force=force)
    if is_file and not keep_reference:
        raise ArgumentError("`keep_reference` is for a model in a repository; a file keeps no float32 network.")
    accepts_slow = force and not (is_file and precision == "float16")  # there, it is for the file alone
    options = precision_options(precision, samples, as_tensors, ranges, max_drop, accepts_slow, float16_io)
    with progress_callback(progress) as progress:
        if is_file:
            from normfold.export.precision.quantize_file import quantize_file

            written = Path(target or "")
            with resolved(given, progress) as unfolded:
                made = quantize_file(unfolded.path, written, options, unfolded.card, optional_path(inputs), progress)
            return QuantizeResult(written, made.precision, report=made.report, warnings=made.warnings)
        from normfold.export.precision.quantize_bundle import quantize_bundle

        place = place_of(given.text, optional_path(repository), version)
        published = quantize_bundle(place.repository, place.name, options, place.version, keep_reference, progress)
        return QuantizeResult(published.path, published.precision, published.manifest, warnings=published.warnings)


def precision_options(
    precision: str,
    samples: AnyPath | None,
    as_tensors: bool | None,
    ranges: RangeSourceName | None,
    max_drop: float | None,
    force: bool,
    float16_io: bool,
) -> PrecisionOptions:
    """Return the options of a conversion.

    Raises:
        ArgumentError: the precision is unknown, or an option is for the other one.
    """
    from normfold.contract.precision.record import DEFAULT_MAX_DROP, PrecisionKind
    from normfold.export.precision.options import PrecisionOptions

    check_as_tensors(as_tensors, samples)
    lower = [kind.value for kind in (PrecisionKind.INT8, PrecisionKind.FLOAT16)]
    if precision not in lower:
        raise ArgumentError(f"`precision` {precision!r} is not {' or '.join(lower)}.")
    kind = PrecisionKind(precision)
    if ranges not in (None, "statistics", "recorded", "samples"):
        raise ArgumentError(f"`ranges` {ranges!r} is not statistics, recorded or samples.")
    wrong = {"float16_io": float16_io} if kind is PrecisionKind.INT8 else {"ranges": ranges, "force": force}
    for name, value in wrong.items():
        if value:
            raise ArgumentError(f"`{name}` is not for {kind}.")
    if max_drop is not None and not 0 <= max_drop <= 1:
        raise ArgumentError(f"`max_drop` {max_drop} is not between 0 and 1.")
    return PrecisionOptions(
        kind,
        optional_path(samples),
        as_tensors,
        ranges,
        float16_io,
        DEFAULT_MAX_DROP if max_drop is None else max_drop,
        force,
    )


def _makes_a_file(given: Source, target: AnyPath | None) -> bool:
    """Return whether a file is written: the source is no bundle. A name may be that of a run folder and of a bundle."""
    if given.network is not None or given.text.endswith(".onnx") or given.is_factory:
        return True
    is_run = given.is_run and is_run_folder(Path(given.text))
    return is_run and (target is not None or not is_model(usual_repository() / given.text))


def _check_arguments(
    is_file: bool,
    given: Source,
    target: AnyPath | None,
    of_bundle: dict[str, object],
    of_file: dict[str, object],
) -> None:
    """Check that each argument is for this kind of source.

    Raises:
        ArgumentError: naming the first that is not.
    """
    if not is_file and given.is_onnx:
        raise ArgumentError(f"{given.text!r} is not an ONNX file: the name of one ends in .onnx.")
    if not is_file and given.text.endswith(tuple(WEIGHTS_ENDINGS)):
        require_torch_source(given)
    kind = "a model in a repository" if is_file else "an ONNX file; a version keeps its own"
    for name, value in (of_bundle if is_file else of_file).items():
        if value is not None:
            raise ArgumentError(f"`{name}` is for {kind}.")
    if is_file and target is None:
        what = "a run folder" if given.is_run else given.kind
        raise ArgumentError(f"{given.text!r} is {what}; name the file to write after it.")
    if not is_file and target is not None:
        raise ArgumentError(
            f"{given.text!r} is taken for a model in a repository, whose next version is written there; to convert a "
            "file, name one that ends in .onnx."
        )
