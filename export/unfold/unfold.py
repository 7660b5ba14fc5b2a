"""Unfold a file, or a bundle of a repository, into another file; verify it, and only then write it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from normfold.contract.atomic_write import atomic_path
from normfold.contract.errors import WriteError
from normfold.contract.manifest import MODEL_NAME, REFERENCE_NAME, STATISTICS_NAME, UNFOLDED_NAME, Manifest
from normfold.contract.preprocess import Preprocessing
from normfold.contract.progress import ProgressCallback, ignore_progress
from normfold.export.adapt.read_samples import read_samples_of_file
from normfold.export.adapt.samples import MIN_SAMPLES, require_usable
from normfold.export.bundle.statistics import read_statistics
from normfold.export.errors import ModelFileError, UnfoldError
from normfold.export.graph.nodes import all_nodes, is_batchnorm, node_label
from normfold.export.graph.pixels import from_pixels
from normfold.export.onnx_io.model_file import check_result, load_model, save_model
from normfold.export.onnx_io.source_weights import keep_source_weights
from normfold.export.repository.versions import check_version, find_model
from normfold.export.unfold.report import UnfoldedLayer, UnfoldReport
from normfold.export.unfold.with_samples import unfold_with_samples
from normfold.export.unfold.with_statistics import unfold_with_statistics
from normfold.export.verify.verify import Verification, verify

LEAST_SAMPLES = 2
"""The function of the network stays, whatever the statistics; below MIN_SAMPLES a warning says how rough they are."""


@dataclass(frozen=True)
class UnfoldedFile:
    """The report of an unfold, its verification, and warnings, one sentence each."""

    report: UnfoldReport
    verification: Verification
    warnings: tuple[str, ...] = ()


def unfold_file(
    source: Path,
    target: Path,
    samples: Path | None,
    preprocessing: Preprocessing | None = None,
    as_tensors: bool | None = None,
    inputs: Path | None = None,
    progress: ProgressCallback = ignore_progress,
) -> UnfoldedFile:
    """Put a BatchNormalization behind each layer of a folded file, and write the result, if verification passes.

    Args:
        source: the folded model, from any tool.
        target: path of the unfolded model; an existing file is replaced, as a whole.
        samples: what the statistics are taken from (`export.adapt.read_samples`).
        preprocessing: of the model's card; None where samples are tensors.
        as_tensors: whether an .npz holds tensors; None to decide by the names of its arrays.
        inputs: an .npz file to verify with; random inputs without it.
        progress: called with each step as it begins.

    Raises:
        ModelFileError: the model cannot be used.
        UnfoldError: there are no samples, or there is no layer to put a BatchNormalization behind.
        SampleError, PixelError, ModelInputError: the samples, or the inputs to verify with, cannot be used.
        AdaptationError: the samples are too few, too many, all the same, or beyond what the model's numbers hold.
        NotAdaptableError: the model cannot be run on the samples.
        VerificationError: the unfolded model differs; the target is as it was.
        WriteError: the target cannot be written.
    """
    _require_file(target)
    progress("reading the model")
    model = load_model(source)
    if samples is None:
        raise UnfoldError(
            f"{str(source)!r} does not say which statistics its layers had; give inputs of the network to take them "
            "from: `samples`, a folder, an .npz or a .csv; or a bundle's name, which keeps them."
        )
    keep_source_weights(source, target, model)
    progress("reading the samples")
    given = read_samples_of_file(samples, source, model, preprocessing, as_tensors)
    require_usable(given, LEAST_SAMPLES)
    few = (
        f"{given.count} samples give rough statistics: a channel's mean is known to a fifth of its standard deviation "
        f"from {MIN_SAMPLES} samples on."
    )
    warnings = (*given.warnings, *([few] if given.count < MIN_SAMPLES else []))
    report = unfold_with_samples(model, given, progress)
    return UnfoldedFile(
        report, _write(model, target, lambda path: verify(source, path, inputs, progress=progress)), warnings
    )


def unfold_bundle(
    repository: Path,
    name: str,
    target: Path,
    version: int | None = None,
    inputs: Path | None = None,
    progress: ProgressCallback = ignore_progress,
) -> UnfoldedFile:
    """Write the network of a bundle with its own BatchNormalization nodes, if verification passes.

    A bundle with its unfolded model gives that; one without it, its folded model with the nodes put back from their
    stored parameters.

    Args:
        repository: the folder of models.
        name: of the model.
        target: path of the unfolded model; an existing file is replaced, as a whole.
        version: of the model; None for the newest.
        inputs: an .npz file to verify with; random inputs without it.
        progress: called with each step as it begins.

    Raises:
        RepositoryError: there is no such model or version.
        DamagedVersionError: the version is not what was exported.
        UnfoldError: no BatchNormalization can be put back.
        ModelFileError, ModelInputError: the model, or the inputs to verify with, cannot be used.
        VerificationError: the unfolded model differs; the target is as it was.
        WriteError: the target cannot be written.
    """
    _require_file(target)
    found = find_model(repository, name)
    folder = found.version(max(found.versions, default=1) if version is None else version).folder
    progress(f"checking {name}/{folder.name}")
    manifest = check_version(folder, repository)
    folded = folder / _float32_name(manifest)
    if UNFOLDED_NAME in manifest.files:
        model = load_model(folder / UNFOLDED_NAME)
        report = UnfoldReport(tuple(map(_own_layer, filter(is_batchnorm, all_nodes(model.graph)))))
        pixels = from_pixels(manifest.card.preprocessing) if manifest.takes_pixels else None
        return UnfoldedFile(
            report, _write(model, target, lambda path: verify(path, folded, inputs, progress=progress, pixels=pixels))
        )
    model = load_model(folded)
    report = unfold_with_statistics(model, read_statistics(_statistics(folder, manifest)), progress)
    return UnfoldedFile(report, _write(model, target, lambda path: verify(folded, path, inputs, progress=progress)))


def _float32_name(manifest: Manifest) -> str:
    """Return the file of the folded float32 network.

    Raises:
        UnfoldError: the version keeps none.
    """
    if REFERENCE_NAME not in manifest.files and manifest.precision is not None:
        name = f"Version {manifest.version} of {manifest.name!r}"
        raise UnfoldError(
            f"{name} is {manifest.precision.kind} and keeps no float32 network (`keep_reference`); unfold the version "
            "that it was made of, with `version`."
        )
    return REFERENCE_NAME if REFERENCE_NAME in manifest.files else MODEL_NAME


def _statistics(folder: Path, manifest: Manifest) -> Path:
    if STATISTICS_NAME not in manifest.files:
        raise UnfoldError(
            f"Version {manifest.version} of {manifest.name!r} has neither its unfolded model nor its statistics; give "
            f"its {MODEL_NAME} and `samples` instead."
        )
    return folder / STATISTICS_NAME


def _own_layer(node: ir.Node) -> UnfoldedLayer:
    value = node.inputs[0]
    producer = value.producer() if value is not None else None
    shape = node.inputs[1].shape if node.inputs[1] is not None else None
    size = shape[0] if shape is not None and len(shape) else None
    channels = size if isinstance(size, int) else None
    return UnfoldedLayer(node_label(node), node_label(producer) if producer is not None else "", channels)


def _require_file(target: Path) -> None:
    if not target.name or target.is_dir():
        raise WriteError(target, "it is a folder")


def _write(model: ir.Model, target: Path, compare: Callable[[Path], Verification]) -> Verification:
    """Write a model to the target, once what `compare` returns of it passes."""
    check_result(model)
    with atomic_path(target) as path:
        save_model(model, path)
        try:
            verification = compare(path)
        except ModelFileError as error:
            raise ModelFileError(target if error.path == path else error.path, error.problem) from None
        verification.require()
    return verification
