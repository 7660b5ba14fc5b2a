"""Publish a version of a bundle in a lower precision, made from an earlier version alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from normfold.contract.manifest import (
    MANIFEST_NAME,
    MODEL_NAME,
    PRECISION_SCHEMA_VERSION,
    REFERENCE_NAME,
    STATISTICS_NAME,
    UNFOLDED_NAME,
    Manifest,
    sha256_of,
)
from normfold.contract.precision.record import Precision
from normfold.contract.progress import ProgressCallback, ignore_progress
from normfold.contract.record import to_json
from normfold.export.bundle.export import package_versions
from normfold.export.bundle.folded_network import FoldedNetwork
from normfold.export.bundle.recorded_ranges import read_recorded_ranges
from normfold.export.bundle.reservation import reservation
from normfold.export.bundle.statistics import read_statistics
from normfold.export.bundle.tensor_specs import input_specs, output_specs
from normfold.export.errors import QuantizeError
from normfold.export.onnx_io.model_file import load_model, save_model
from normfold.export.precision.options import PrecisionOptions, conversion
from normfold.export.precision.read_folded_samples import read_folded_samples
from normfold.export.repository.rollback import link_or_copy
from normfold.export.repository.versions import check_version, find_model
from normfold.export.verify.runner import input_infos


@dataclass(frozen=True)
class QuantizedBundle:
    """A version that was published, and warnings about the samples."""

    path: Path
    manifest: Manifest
    precision: Precision
    warnings: tuple[str, ...] = ()


def quantize_bundle(
    repository: Path,
    name: str,
    options: PrecisionOptions,
    version: int | None = None,
    keep_reference: bool = True,
    progress: ProgressCallback = ignore_progress,
) -> QuantizedBundle:
    """Publish a version of a bundle in a lower precision, if it is near enough.

    Statistics, drift monitor, card and unfolded model are those of the version that it comes from.

    Args:
        repository: the folder of models.
        name: of the model.
        options: of the conversion; samples may be a service's state folder too.
        version: to convert; None for the newest.
        keep_reference: keep the folded float32 network in the new version.
        progress: called with each step as it begins.

    Raises:
        RepositoryError: there is no such model or version.
        DamagedVersionError: the version is not what was exported.
        QuantizeError: the version keeps no float32 network, or that cannot be quantised.
        SampleError, PixelError, ModelInputError: the samples cannot be used.
        AdaptationError: they are too few, too many, or all the same.
        Float16OverflowError, PrecisionLossError: the result overflows, differs, or is not faster.
        WriteError: the repository cannot be written.
    """
    model = find_model(repository, name)
    source = model.version(max(model.versions, default=1) if version is None else version).folder
    progress(f"checking {name}/{source.name}")
    manifest = check_version(source, repository)
    reference = source / _reference_name(manifest)
    samples = None
    if options.samples is not None:
        progress("reading the samples")
        infos = input_infos(reference, load_model(reference))
        samples = read_folded_samples(options, infos, manifest.card, manifest.takes_pixels, manifest)
    has_statistics = STATISTICS_NAME in manifest.files
    statistics = read_statistics(source / STATISTICS_NAME) if has_statistics else []
    recorded = read_recorded_ranges(source / STATISTICS_NAME) if has_statistics else None
    convert = conversion(options, samples, recorded is not None, manifest.card)
    unfolded = source / UNFOLDED_NAME if UNFOLDED_NAME in manifest.files else None
    network = FoldedNetwork(
        *(reference, reference, unfolded, statistics, manifest.card, manifest.takes_pixels, manifest.batchable),
        recorded,
    )
    with reservation(repository, name, None) as (folder, number):
        made = convert(network, folder / MODEL_NAME, progress)
        precision = made.model_copy(update={"from_version": manifest.version})
        progress(f"writing {name}/{number}")
        for file in _kept_files(manifest):
            link_or_copy(source / file, folder / file)
        if keep_reference:
            _copy_model(reference, folder / REFERENCE_NAME)
        served = load_model(folder / MODEL_NAME)
        changes = {
            "schema_version": max(PRECISION_SCHEMA_VERSION, manifest.schema_version),
            "version": number,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "copy_of": None,
            "precision": precision,
            "inputs": input_specs(served),
            "outputs": output_specs(served),
            "opset": served.opset_imports.get("", 0),
            "versions": manifest.versions | package_versions(),
            "files": {path.name: sha256_of(path) for path in sorted(folder.iterdir())},
        }
        published = Manifest.model_validate(dict(manifest) | changes)
        (folder / MANIFEST_NAME).write_text(to_json(published))
    path = repository / name / str(number)
    return QuantizedBundle(path, published, precision, () if samples is None else samples.warnings)


def _reference_name(manifest: Manifest) -> str:
    """Return the file of the folded float32 network.

    Raises:
        QuantizeError: the version keeps none.
    """
    if REFERENCE_NAME in manifest.files:
        return REFERENCE_NAME
    if manifest.precision is None:
        return MODEL_NAME
    raise QuantizeError(
        f"Version {manifest.version} of {manifest.name!r} is {manifest.precision.kind} and keeps no float32 network "
        "(`keep_reference`); convert the version that it was made of, with `version`."
    )


def _kept_files(manifest: Manifest) -> Iterator[str]:
    """Yield the files of a version that another precision leaves as they are."""
    changed = {f"{name}{ending}" for name in (MODEL_NAME, REFERENCE_NAME) for ending in ("", ".data")}
    yield from (name for name in manifest.files if name not in changed)


def _copy_model(source: Path, target: Path) -> None:
    """Give a model a second name; one whose weights lie in a file of their own, named by the model, is written anew."""
    if source.with_name(f"{source.name}.data").exists():
        save_model(load_model(source), target)
    else:
        link_or_copy(source, target)
