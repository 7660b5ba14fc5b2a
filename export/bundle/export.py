"""Export an unfolded model as a bundle of a repository: folded, verified, described, and only then visible."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import onnx_ir as ir

from normfold.contract.drift.monitor import MONITOR_CARD_NAME, MONITOR_NAME, Monitor
from normfold.contract.manifest import (
    MANIFEST_NAME,
    MODEL_NAME,
    PRECISION_SCHEMA_VERSION,
    REFERENCE_NAME,
    STATISTICS_NAME,
    UNFOLDED_NAME,
    Adaptation,
    FoldSummary,
    Manifest,
    OutputError,
    TensorSpec,
    class_axis,
    sha256_of,
)
from normfold.contract.outputs.task import Regression
from normfold.contract.progress import ProgressCallback, ignore_progress
from normfold.contract.record import to_json
from normfold.contract.source_card import SourceCard
from normfold.contract.tables.preprocessing import TablePreprocessing
from normfold.export.bundle.calibrate import calibrate
from normfold.export.bundle.folded_network import Conversion, FoldedNetwork
from normfold.export.bundle.recorded_ranges import RangeRecorder
from normfold.export.bundle.reservation import reservation
from normfold.export.bundle.statistics import (
    TRAINED_NAME,
    Statistics,
    save_statistics,
    save_trained,
    stored_batchnorms,
)
from normfold.export.bundle.tensor_specs import input_specs, output_specs
from normfold.export.bundle.write_monitor import save_monitor
from normfold.export.errors import BundleExportError, FoldError
from normfold.export.fold.fold import fold
from normfold.export.fold.report import FoldReport
from normfold.export.graph.pixels import FromPixels, from_pixels
from normfold.export.onnx_io.model_file import load_model, remove_model, require_consistent, save_model
from normfold.export.verify.runner import Engine, Inputs
from normfold.export.verify.verify import Verification, verify

_RECORDED_PACKAGES = (
    *("normfold", "numpy", "onnx", "onnx-ir", "onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino"),
)


@dataclass(frozen=True, eq=False)
class AdaptationOrigin:
    """The origin of recalibrated statistics: the record for the manifest, and the statistics before."""

    record: Adaptation
    trained: Mapping[str, Statistics]
    """Running mean and variance as training left them, by BatchNormalization."""


@dataclass(frozen=True)
class ExportedBundle:
    """A bundle that was written."""

    path: Path
    manifest: Manifest
    report: FoldReport
    verification: Verification
    monitor: Monitor | None = None


def export_bundle(
    source: Path,
    repository: Path,
    name: str,
    model_version: int | None = None,
    card: SourceCard | None = None,
    keep_source: bool = True,
    merging: bool = True,
    inputs: Path | None = None,
    takes_pixels: bool = False,
    monitoring: bool = True,
    calibration: Path | Inputs | None = None,
    adapted: AdaptationOrigin | None = None,
    convert: Conversion | None = None,
    keep_reference: bool = True,
    record: RangeRecorder | None = None,
    progress: ProgressCallback = ignore_progress,
) -> ExportedBundle:
    """Fold a model, verify the fold, and write it as NAME/VERSION of a repository.

    Args:
        source: the unfolded ONNX model.
        repository: the folder of models.
        name: of the model.
        model_version: a positive number, or None for the next free one.
        card: what is known of the network beside its graph.
        keep_source: write `unfolded.onnx` too; without it the bundle can never be folded again.
        merging: make one layer of parallel linear branches.
        inputs: an .npz file to verify with; random inputs without it.
        takes_pixels: make the input 8-bit pixels, and fold the card's standardisation, or the model's own, too.
        monitoring: write what the service needs to see whether its inputs drift from those of training.
        calibration: normal rows that the network was not trained on, as the served network takes them: an .npz file
            with one array for each input, or the arrays; without them the service shows how far inputs are from
            training's, and cannot say what is too far.
        adapted: where the model's statistics come from, if not from training.
        convert: writes the folded network in another precision, which then is `model.onnx`.
        keep_reference: keep the folded float32 network beside it, as `reference.onnx`.
        record: records the ranges of the folded network's values on data that are there now, for int8.
        progress: called with each step as it begins.

    Returns:
        The bundle as it stands in the repository.

    Raises:
        ModelFileError, TrainingModeError, PixelError: the model cannot be used.
        BundleExportError: the name, the version or the card does not fit.
        VerificationError: the folded model differs; nothing was written.
        NormfoldError: what `convert` raises; nothing was written.
        ModelInputError: the calibration rows, or the inputs to verify with, cannot be used.
        WriteError: the repository cannot be written.
    """
    card = card or SourceCard()
    progress("reading the model")
    model = load_model(source)
    _check_card(card, input_specs(model), output_specs(model))
    pixels = from_pixels(card.preprocessing) if takes_pixels else None
    with reservation(repository, name, model_version) as (folder, number):
        try:
            report = fold(model, progress, merging, pixels)
        except FoldError:
            require_consistent(source)
            raise
        folded = folder / (MODEL_NAME if convert is None else REFERENCE_NAME)
        save_model(model, folded)
        if adapted is not None:
            save_trained(adapted.trained, folder / TRAINED_NAME)
        if keep_source:
            save_model(load_model(source), folder / UNFOLDED_NAME)
        progress("verifying")
        verification = verify(source, folded, inputs, progress=progress, pixels=pixels)
        verification.require()
        recorded = None
        if record is not None and verification.engine is Engine.ONNXRUNTIME:
            progress("recording ranges")
            recorded = record(folded)
        save_statistics(report, folder / STATISTICS_NAME, merging, recorded)
        monitor = None
        if monitoring and verification.batchable and verification.engine is Engine.ONNXRUNTIME:
            progress("calibrating the drift monitor")
            monitor = _write_monitor(source, folder, pixels, card, calibration)
        served, precision = model, None
        if convert is not None:
            network = FoldedNetwork(
                *(folded, source, source, stored_batchnorms(report), card, takes_pixels, verification.batchable),
                recorded,
            )
            precision = convert(network, folder / MODEL_NAME, progress)
            served = load_model(folder / MODEL_NAME)
            if not keep_reference:
                remove_model(folded)
        progress("writing the manifest")
        manifest = Manifest(
            schema_version=max(
                card.schema_version, 1 if adapted is None else 3, 1 if precision is None else PRECISION_SCHEMA_VERSION
            ),
            name=name,
            version=number,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            adapted=None if adapted is None else adapted.record,
            precision=precision,
            inputs=input_specs(served),
            outputs=output_specs(served),
            takes_pixels=takes_pixels,
            batchable=verification.batchable,
            opset=served.opset_imports.get("", 0),
            card=card,
            fold=FoldSummary(
                batchnorm_before=report.batchnorm_before, batchnorm_after=report.batchnorm_after, kept=report.kept
            ),
            verification={
                output: OutputError(error=found.error, noise=found.noise, allowed=found.allowed)
                for output, found in verification.outputs.items()
            },
            versions=_versions(model),
            files={path.name: sha256_of(path) for path in sorted(folder.iterdir())},
        )
        (folder / MANIFEST_NAME).write_text(to_json(manifest))
    return ExportedBundle(repository / name / str(number), manifest, report, verification, monitor)


def _write_monitor(
    source: Path, folder: Path, pixels: FromPixels | None, card: SourceCard, calibration: Path | Inputs | None
) -> Monitor | None:
    """Write monitor.onnx and monitor.json; neither, and None is returned, where no layer can be monitored.

    Raises:
        ModelInputError: the calibration rows cannot be used.
    """
    table = card.preprocessing if isinstance(card.preprocessing, TablePreprocessing) else None
    layers = save_monitor(source, folder / MONITOR_NAME, pixels, table)
    if not layers:
        return None
    monitor = calibrate(folder / MONITOR_NAME, layers, calibration)
    (folder / MONITOR_CARD_NAME).write_text(to_json(monitor))
    return monitor


def _check_card(card: SourceCard, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> None:
    by_name = {spec.name: spec for spec in outputs}
    for name in card.logits:
        if name not in by_name:
            raise BundleExportError(f"The card calls {name!r} logits; the model's outputs are {sorted(by_name)}.")
        shape = by_name[name].shape
        classes = shape[class_axis(shape)] if shape else -1
        if card.labels is not None and classes not in (-1, len(card.labels)):
            raise BundleExportError(
                f"The card has {len(card.labels)} labels; the output {name!r} has {classes} classes."
            )
    _check_task(card, by_name)
    if card.preprocessing is not None:
        sample = card.preprocessing.sample_shape
        fits = len(inputs) == 1 and len(inputs[0].shape) == 1 + len(sample) and inputs[0].datatype == "FP32"
        if not fits or any(size not in (-1, own) for size, own in zip(inputs[0].shape[1:], sample, strict=True)):
            given = ", ".join(f"{spec.name!r} {spec.datatype} {list(spec.shape)}" for spec in inputs)
            raise BundleExportError(
                f"The card's preprocessing makes FP32 samples {list(sample)}; the model takes {given}."
            )


def _check_task(card: SourceCard, outputs: Mapping[str, TensorSpec]) -> None:
    if card.task is None:
        return
    if card.task.output not in outputs:
        raise BundleExportError(
            f"The card's task is of the output {card.task.output!r}; the model's outputs are {sorted(outputs)}."
        )
    shape = outputs[card.task.output].shape
    count = len(card.task.targets) if isinstance(card.task, Regression) else len(card.labels or ())
    if len(shape) != 2 or shape[1] not in (-1, count) or not count:
        raise BundleExportError(
            f"The card's task has {count} {'values' if isinstance(card.task, Regression) else 'labels'}; the output "
            f"{card.task.output!r} is of shape {list(shape)}."
        )


def _versions(model: ir.Model) -> dict[str, str]:
    """Return the versions of the packages that write a bundle, and of the model's producer."""
    producer = {model.producer_name: model.producer_version or "unknown"} if model.producer_name else {}
    return producer | package_versions()


def package_versions() -> dict[str, str]:
    """Return the versions of the packages that write a bundle, as far as they are installed."""
    versions = {}
    for package in _RECORDED_PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions
