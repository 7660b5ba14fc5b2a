"""`normfold.export`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from normfold._shared.argument_checks import FLAG, INTEGER, NUMBER, PATH, TENSORS, TEXT, VERSION, check, check_optional
from normfold._shared.packages import require_export
from normfold._shared.paths import REPOSITORY, AnyPath, optional_path
from normfold._shared.progress import Progress, progress_callback
from normfold._shared.quantize import RangeSourceName, precision_options
from normfold._shared.results import unfolded_page, verification_sentence
from normfold._shared.sources.resolve import Resolved, resolve
from normfold._shared.sources.source import Source
from normfold.contract.atomic_write import temporary_folder
from normfold.errors import ArgumentError

if TYPE_CHECKING:
    from torch import nn

    from normfold._shared.calibration_data import RunData
    from normfold.contract.drift.monitor import Monitor
    from normfold.contract.manifest import Manifest
    from normfold.export.bundle.folded_network import Conversion
    from normfold.export.fold.report import FoldReport
    from normfold.export.precision.options import PrecisionOptions
    from normfold.export.triton.write_config import WrittenConfig
    from normfold.export.verify.verify import Verification

PrecisionName = Literal["float32", "int8", "float16"]


@dataclass(frozen=True, repr=False)
class ExportResult:
    """A bundle that was written.

    Attributes:
        path: REPOSITORY/NAME/VERSION.
        manifest: the facts that a server needs.
        report: the outcome of each BatchNormalization, in graph order.
        verification: the comparison of the folded model with the unfolded one.
        monitor: what the service monitors of its inputs; None if nothing.
        kept_statistics: why the running statistics are those of training, "`keep_statistics`" if that was given; None
            where they were recalibrated.
        triton: the config.pbtxt that was written; None without `triton`.
        threshold_rows: which rows the thresholds of drift come from, in words.
    """

    path: Path
    manifest: Manifest
    report: FoldReport
    verification: Verification
    monitor: Monitor | None
    kept_statistics: str | None = None
    triton: WrittenConfig | None = None
    threshold_rows: str = "calibration rows"

    def __repr__(self) -> str:
        from normfold.display.terminal.fold import fold_sentence

        return (
            f"ExportResult({str(self.path)!r}: {fold_sentence(self.report)} {verification_sentence(self.verification)})"
        )

    def _repr_html_(self) -> str | None:
        """Return the page of `normfold inspect --html` for notebooks; None where the bundle has no unfolded model."""
        return unfolded_page(self.path, self.verification)


def export(
    source: AnyPath | nn.Module,
    repository: AnyPath = REPOSITORY,
    *,
    name: str | None = None,
    version: int | None = None,
    card: AnyPath | None = None,
    weights: AnyPath | None = None,
    weights_key: str | None = None,
    strip_prefix: str | None = None,
    partial: bool = False,
    input_shape: str | Sequence[int] | None = None,
    takes_pixels: bool = False,
    arguments: Mapping[str, Any] | Sequence[str] = (),
    opset: int | None = None,
    dynamic_size: bool = False,
    keep_statistics: bool = False,
    inputs: AnyPath | None = None,
    merge: bool = True,
    keep_source: bool = True,
    calibration_data: AnyPath | Mapping[str, Any] | None = None,
    monitor: bool = True,
    precision: PrecisionName = "float32",
    samples: AnyPath | None = None,
    as_tensors: bool | None = None,
    ranges: RangeSourceName | None = None,
    max_drop: float | None = None,
    force: bool = False,
    float16_io: bool = False,
    keep_reference: bool = True,
    triton: bool = False,
    progress: Progress = False,
) -> ExportResult:
    """Fold a network, verify the fold, and write a bundle that `normfold serve` and `load_repository` can run.

    The running statistics of a run folder are first recalibrated over all of its training data, with frozen weights.
    If that lowers validation accuracy, the statistics of training are kept. If the folded network differs from the
    original by more than its rounding noise, nothing is written. With a `precision` of "int8" or "float16", the folded
    network is then converted as by `quantize`; the rows of a run folder's data calibrate and compare it.

    The ranges of the activations on a run folder's training data are recorded in the bundle, for int8.

    Example:
        >>> import normfold
        >>> normfold.export("runs/digits", "model_repository", name="digits").path
        PosixPath('model_repository/digits/1')

    Args:
        source: a run folder, an ONNX file (needs no torch), a torch network in eval mode, or module:factory, a function
            that returns one.
        repository: folder of models; created if missing.
        name: of the model; derived from the source without it.
        version: a positive number; the next free one without it.
        card: the source card (JSON): preprocessing, labels, which outputs are logits; without it, the one next to
            the model.
        weights: of a factory's network: .safetensors, or a state dict or checkpoint of torch.save. No code in it runs.
        weights_key: of the state dict in that file, such as "state_dict_ema", if it holds several.
        strip_prefix: before the network's names in that file; found by itself if all names have it.
        partial: load of that file what fits; warns of the rest.
        input_shape: of one sample of your own network, without the axis of rows: (3, 224, 224).
        takes_pixels: make the input uint8 pixels, 0 to 255, and fold their standardisation too.
        arguments: of the factory, by name; or as texts NAME=VALUE.
        opset: ONNX opset of the graph, when exporting from torch.
        dynamic_size: leave height and width free, when exporting from torch.
        keep_statistics: do not recalibrate the running mean and variance of a run folder.
        inputs: an .npz to verify with, one array for each input in its dtype and shape; random inputs without it.
        merge: merge parallel linear branches into one layer (RepVGG re-parameterisation).
        keep_source: write the unfolded model into the bundle too; without it the bundle cannot be adapted.
        calibration_data: inputs that the network was not trained on, as the served network takes them, rows first: an
            .npz, or arrays by input. The thresholds of drift come from them. A run folder's are its validation data,
            with test and then training data where there are fewer than 100 rows.
        monitor: write what the service needs to monitor its inputs for drift.
        precision: "float32", "int8" or "float16".
        samples: as `quantize` takes them; without it, a run folder's own data are compared on.
        as_tensors: whether an .npz of samples holds tensors; derived from the names of its arrays without it.
        ranges: of activations in int8, "recorded" on a run folder's training data, or from "statistics" or `samples`.
        max_drop: largest loss of accuracy, or of agreement without labels, of a lower precision; 0.01 without it.
        force: write an int8 network that is not faster on this processor.
        float16_io: make inputs and outputs float16 too.
        keep_reference: keep the float32 network beside one of lower precision.
        triton: write the model's config.pbtxt, so that Triton serves the same folder.
        progress: True shows each step on standard error; a function is called with each step, in words.

    Raises:
        MissingPackageError, RuntimePackageError: the extra `export` (or `train`) or an ONNX Runtime is not installed.
        ArgumentError: there is no such source, or an argument does not go with it.
        ModelFileError, TrainingModeError, PixelError, ManifestError: the model or its card cannot be used.
        WeightsError, ArchitectureError, OnnxExportError: a torch network cannot be loaded or exported.
        BundleExportError: the name, the version or the card does not fit.
        TritonError: the model's config.pbtxt is another hand's, or Triton cannot serve the versions with one.
        ModelInputError: the inputs or the calibration data do not fit.
        VerificationError: the folded model differs; nothing was written.
        WriteError: the repository cannot be written.
    """
    check(PATH, repository=repository)
    check_optional(TEXT, name=name, weights_key=weights_key, strip_prefix=strip_prefix)
    check_optional(VERSION, version=version)
    check_optional(PATH, card=card, weights=weights, inputs=inputs)
    check_optional(INTEGER, opset=opset)
    check(FLAG, takes_pixels=takes_pixels, dynamic_size=dynamic_size, keep_statistics=keep_statistics)
    check(FLAG, merge=merge, keep_source=keep_source, monitor=monitor)
    check(FLAG, partial=partial, force=force, float16_io=float16_io, keep_reference=keep_reference, triton=triton)
    check_optional(PATH, samples=samples)
    check(TEXT, precision=precision)
    check_optional(TEXT, ranges=ranges)
    check_optional(FLAG, as_tensors=as_tensors)
    check_optional(NUMBER, max_drop=max_drop)
    check_optional(TENSORS if isinstance(calibration_data, Mapping) else PATH, calibration_data=calibration_data)
    require_export("normfold export")
    from normfold._shared.calibration_data import run_data
    from normfold.export.bundle.export import export_bundle
    from normfold.export.bundle.reservation import check_name
    from normfold.export.quantize.record_ranges import RecordRanges

    given = Source.of(
        source,
        card=optional_path(card),
        weights=optional_path(weights),
        weights_key=weights_key,
        strip_prefix=strip_prefix,
        partial=partial,
        input_shape=input_shape,
        arguments=arguments,
        opset=opset,
        dynamic_size=dynamic_size,
        keep_statistics=keep_statistics,
    )
    if given.bundle is not None:
        raise ArgumentError(
            f"{given.text!r} is a bundle already; normfold quantize converts it, normfold repository copy copies it, "
            "and normfold adapt changes its statistics."
        )
    options = _precision_options(precision, samples, as_tensors, ranges, max_drop, force, float16_io, keep_reference)
    model = name or given.default_name
    check_name(model)
    if triton:
        from normfold.export.triton.write_config import check_target

        check_target(Path(repository, model))
    rows = calibration_data if isinstance(calibration_data, Mapping) else optional_path(calibration_data)
    with temporary_folder() as folder, progress_callback(progress) as progress:
        found = resolve(given, folder, progress)
        data = run_data(given, takes_pixels)
        training = None if data is None else data.training_rows()
        of_thresholds = data.threshold_rows() if data is not None and monitor and not rows else None
        convert = None
        if options is not None:
            convert = _conversion(options, found, data, takes_pixels, has_recorded=training is not None)
        exported = export_bundle(
            found.path,
            Path(repository),
            model,
            version,
            found.card,
            keep_source,
            merge,
            inputs=optional_path(inputs),
            takes_pixels=takes_pixels,
            monitoring=monitor,
            calibration=rows if of_thresholds is None else of_thresholds.inputs,
            convert=convert,
            keep_reference=keep_reference,
            record=None if training is None else RecordRanges(training),
            progress=progress,
        )
    return ExportResult(
        exported.path,
        exported.manifest,
        exported.report,
        exported.verification,
        exported.monitor,
        found.kept_statistics,
        _write_triton_config(Path(repository), model, exported.path) if triton else None,
        "calibration rows" if of_thresholds is None else of_thresholds.origin,
    )


def _write_triton_config(repository: Path, model: str, bundle: Path) -> WrittenConfig:
    from normfold.export.errors import TritonError
    from normfold.export.repository.versions import find_model
    from normfold.export.triton.write_config import prepare_config

    try:
        return prepare_config(find_model(repository, model)).write()
    except TritonError as error:
        raise TritonError(f"{str(bundle)!r} is written, its configuration for Triton is not: {error}") from None


def _precision_options(
    precision: str,
    samples: AnyPath | None,
    as_tensors: bool | None,
    ranges: RangeSourceName | None,
    max_drop: float | None,
    force: bool,
    float16_io: bool,
    keep_reference: bool,
) -> PrecisionOptions | None:
    """Return the options of a conversion; None for float32.

    Raises:
        ArgumentError: the precision is unknown, or an option does not go with it.
    """
    given = {
        "samples": samples is not None,
        "as_tensors": as_tensors is not None,
        "ranges": ranges is not None,
        "max_drop": max_drop is not None,
        "force": force,
        "float16_io": float16_io,
        "keep_reference": not keep_reference,
    }
    if precision not in ("float32", "int8", "float16"):
        raise ArgumentError(f"`precision` {precision!r} is not float32, int8 or float16.")
    if precision != "float32":
        return precision_options(precision, samples, as_tensors, ranges, max_drop, force, float16_io)
    wrong = next((name for name, is_given in given.items() if is_given), None)
    if wrong is not None:
        raise ArgumentError(f"`{wrong}` goes with `precision` int8 or float16.")
    return None


def _conversion(
    options: PrecisionOptions, found: Resolved, data: RunData | None, takes_pixels: bool, has_recorded: bool
) -> Conversion:
    """Return the conversion with the user's samples, or else the rows of a run folder's data, or else none."""
    from normfold.export.onnx_io.model_file import load_model
    from normfold.export.precision.options import conversion, conversion_of_rows
    from normfold.export.precision.read_folded_samples import read_folded_samples
    from normfold.export.verify.runner import input_infos

    if options.samples is not None:
        infos = input_infos(found.path, load_model(found.path))
        samples = read_folded_samples(options, infos, found.card, takes_pixels)
        return conversion(options, samples, has_recorded, found.card)
    if data is None:
        return conversion(options, None)
    return conversion_of_rows(options, *data.compared_rows(), has_recorded=has_recorded)
