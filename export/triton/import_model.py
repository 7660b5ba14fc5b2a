"""Import a model of a Triton repository: every version becomes a bundle, or none does.

All numbers are reserved first; then each network is folded, verified and written inside of its reservation, as by
`normfold export`. A version that is a bundle already, since its manifest lies beside its network, is copied as it is.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from normfold.contract.manifest import MANIFEST_NAME, Manifest, read_manifest
from normfold.contract.progress import ProgressCallback
from normfold.contract.record import ManifestError
from normfold.export.bundle.reservation import reservation
from normfold.export.errors import TritonError
from normfold.export.triton.import_version import Source, read_source, write_bundle
from normfold.export.triton.labels import describe_misfit, read_labels
from normfold.export.triton.left_out import describe_left_out
from normfold.export.triton.model_config_pb2 import ModelConfig
from normfold.export.triton.model_folders import TritonModel
from normfold.export.triton.tensors import check_tensors


@dataclass(frozen=True)
class ImportedModel:
    """The bundles of a model.

    Attributes:
        written: the manifests of the bundles that were written.
        present: versions that an earlier import has written.
        notes: what the configuration says and the bundles do not, in sentences.
    """

    written: tuple[Manifest, ...]
    present: tuple[int, ...]
    notes: tuple[str, ...]


def import_model(model: TritonModel, repository: Path, target: Path, progress: ProgressCallback) -> ImportedModel:
    """Write the bundles of all versions of a model that are not there yet.

    Args:
        model: of the Triton repository.
        repository: of bundles; what is there is not written again.
        target: the same, or another folder where the bundles are written for trial.
        progress: called with each step as it begins.

    Raises:
        NormfoldError: a version cannot be imported; nothing of the model was written.
    """
    config, name = model.config.message, model.name
    labels, notes = read_labels(config, model.folder)
    sources: dict[int, Source] = {}
    for number, file in model.files.items():
        progress(f"reading {name}/{number}")
        sources[number] = read_source(file, config, labels)
    present = tuple(
        number for number, source in sources.items() if _is_present(repository / name / str(number), source)
    )
    manifests: dict[int, Manifest] = {}
    with ExitStack() as stack:
        folders = {
            number: stack.enter_context(reservation(target, name, number))[0]
            for number in sources
            if number not in present
        }
        for number, folder in folders.items():
            source = sources[number]
            manifest, warnings = write_bundle(name, number, source, folder, progress)
            manifests[number] = manifest
            notes += check_tensors(config, manifest.inputs, manifest.outputs, source.with_default)
            notes += describe_misfit(manifest.card.labels, config, manifest.outputs) + warnings
            if labels not in (None, manifest.card.labels):
                notes.append(f"Version {number} is a bundle and keeps its own labels, not those of the label file.")
    notes += describe_left_out(model.config, model.files)
    if (model.folder / "configs").is_dir():
        notes.append(
            "`configs/` is left out: it holds further configurations, which Triton takes by --model-config-name."
        )
    notes += _on_rows(config, manifests)
    return ImportedModel(tuple(manifests.values()), present, tuple(dict.fromkeys(notes)))


def _is_present(folder: Path, source: Source) -> bool:
    """Return whether a version is there already.

    Raises:
        TritonError: there is another one of the same number.
    """
    if not folder.exists():
        return False
    try:
        found = read_manifest(folder / MANIFEST_NAME)
    except ManifestError:
        found = None
    if found is None or not source.is_that_of(found):
        raise TritonError(f"{str(folder)!r} exists, and is not of this network; a version is never overwritten.")
    return True


def _on_rows(config: ModelConfig, manifests: dict[int, Manifest]) -> list[str]:
    """Return a sentence on versions whose requests run in batches with Triton and not here, or the other way round."""
    dependent = [str(number) for number, manifest in manifests.items() if not manifest.batchable]
    if config.max_batch_size > 0 and dependent:
        return [
            f"Triton batches requests of version {', '.join(dependent)}, whose rows are not independent: with it an "
            "answer depends on other requests; here every request runs alone."
        ]
    if config.input and not config.max_batch_size and len(dependent) < len(manifests):
        return ["`max_batch_size` is 0, so Triton batches nothing; rows are independent, so the service batches them."]
    return []
