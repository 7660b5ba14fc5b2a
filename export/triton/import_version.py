"""Import one version of a Triton model: what it is, and the bundle of it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from normfold.contract.bundle import DamagedBundleError, check_files
from normfold.contract.manifest import MANIFEST_NAME, MODEL_NAME, Manifest, read_manifest, sha256_of
from normfold.contract.progress import ProgressCallback
from normfold.contract.record import ManifestError, to_json
from normfold.contract.source_card import SourceCard
from normfold.export.bundle.export import export_bundle
from normfold.export.bundle.tensor_specs import input_specs, output_specs
from normfold.export.errors import DamagedFolderError
from normfold.export.onnx_io.model_file import external_tensors, load_model
from normfold.export.triton.model_config_pb2 import ModelConfig
from normfold.export.triton.tensors import check_tensors
from normfold.export.verify.runner import Engine

_STAGED = "staged"
_DIGEST_CHARS = 16
"""Hexadecimal digits of a file's sha256 that a card records, so that a second import recognises it."""


@dataclass(frozen=True)
class Source:
    """A version that is to be imported.

    Attributes:
        file: its ONNX file.
        card: of the bundle that it becomes.
        with_default: names of its inputs that have a default.
        bundle: its manifest, where it is a bundle already; None for other networks.
    """

    file: Path
    card: SourceCard
    with_default: tuple[str, ...]
    bundle: Manifest | None = None

    def is_that_of(self, manifest: Manifest) -> bool:
        """Return whether a bundle was made of this version."""
        return manifest.card == self.card if self.bundle is None else manifest.files == self.bundle.files


def read_source(file: Path, config: ModelConfig, labels: tuple[str, ...] | None) -> Source:
    """Read a version, and check that the configuration describes it.

    Args:
        file: its ONNX file.
        config: of its model.
        labels: of its classes.

    Raises:
        TritonError: its tensors are not those of the configuration.
        DamagedFolderError: it is a bundle, and not what was exported.
        ModelFileError, BundleExportError: the file cannot be used.
    """
    bundle = _read_bundle(file)
    model = load_model(file)
    with_default = tuple(value.name or "" for value in model.graph.inputs if value.is_initializer())
    check_tensors(config, input_specs(model), output_specs(model), with_default)
    if bundle is not None:
        return Source(file, bundle.card, with_default, bundle)
    weights = sorted({Path(tensor.path) for tensor in external_tensors(model)})
    digest = sha256("".join(map(sha256_of, (file, *weights))).encode()).hexdigest()[:_DIGEST_CHARS]
    return Source(file, SourceCard(labels=labels, origin=f"Triton model {digest}"), with_default)


def write_bundle(
    name: str, number: int, source: Source, folder: Path, progress: ProgressCallback
) -> tuple[Manifest, list[str]]:
    """Fill the reserved folder of a version.

    Args:
        name: of the model.
        number: of the version.
        source: what it is made of.
        folder: empty.
        progress: called with each step as it begins.

    Returns:
        The manifest, and what is to be known of the bundle, in sentences.

    Raises:
        NormfoldError: the network cannot be folded, verified or written.
    """
    if source.bundle is not None:
        progress(f"copying {name}/{number}")
        return _copy_bundle(name, number, source.file.parent, source.bundle, folder), []
    staged = folder / _STAGED
    exported = export_bundle(
        *(source.file, staged, name, number, source.card),
        progress=lambda step: progress(f"{name}/{number}: {step}"),
    )
    for file in exported.path.iterdir():
        file.rename(folder / file.name)
    shutil.rmtree(staged)
    notes = list(exported.report.warnings)
    if exported.verification.engine is Engine.REFERENCE:
        notes.append("ONNX Runtime cannot run this model on the CPU: it is verified, but cannot be served there.")
    return exported.manifest, notes


def _read_bundle(file: Path) -> Manifest | None:
    """Return the manifest beside an ONNX file, if that is a bundle's network.

    Raises:
        DamagedFolderError: the files are not those that were exported.
    """
    folder = file.parent
    if file.name != MODEL_NAME or not (folder / MANIFEST_NAME).is_file():
        return None
    try:
        manifest = read_manifest(folder / MANIFEST_NAME)
        check_files(folder, manifest, folder)
    except (ManifestError, DamagedBundleError) as error:
        raise DamagedFolderError(folder, str(error)) from None
    return manifest


def _copy_bundle(name: str, number: int, source: Path, manifest: Manifest, folder: Path) -> Manifest:
    for file in manifest.files:
        shutil.copyfile(source / file, folder / file)
    if (manifest.name, manifest.version) == (name, number):
        shutil.copyfile(source / MANIFEST_NAME, folder / MANIFEST_NAME)
        return manifest
    copy = Manifest.model_validate(dict(manifest) | {"name": name, "version": number, "copy_of": None})
    (folder / MANIFEST_NAME).write_text(to_json(copy))
    return copy
