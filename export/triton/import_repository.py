"""Import the models of a Triton repository, one after the other; a model that cannot be imported stops no other."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from normfold.contract.errors import NormfoldError
from normfold.contract.manifest import Manifest
from normfold.contract.progress import ProgressCallback, ignore_progress
from normfold.export.errors import TritonError
from normfold.export.triton.import_model import import_model
from normfold.export.triton.model_folders import SkippedModelError, find_model_folders, read_model_folder


class Outcome(StrEnum):
    """What became of a model."""

    IMPORTED = "imported"
    PRESENT = "present"
    SKIPPED = "skipped"
    FAILED = "failed"


@dataclass(frozen=True)
class ModelImport:
    """The outcome of one model.

    Attributes:
        name: of the model.
        outcome: `present` where an earlier import has written all of its versions.
        written: the manifests of the bundles that were written.
        present: versions that an earlier import has written.
        notes: what the configuration says and the bundles do not, in sentences.
        problem: why the model was skipped or failed, in one sentence; None if it was neither.
    """

    name: str
    outcome: Outcome
    written: tuple[Manifest, ...] = ()
    present: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()
    problem: str | None = None


def import_repository(
    source: Path,
    repository: Path,
    names: Collection[str] = (),
    dry_run: bool = False,
    progress: ProgressCallback = ignore_progress,
) -> list[ModelImport]:
    """Make bundles of the ONNX models of a Triton repository.

    Args:
        source: Triton's repository.
        repository: the folder of bundles, made if it is not there.
        names: of the models to import; all of them if empty.
        dry_run: fold and verify in a temporary folder, and write nothing else.
        progress: called with each step as it begins.

    Returns:
        The outcome of each model, by name. Of a model that failed, no version was written.

    Raises:
        TritonError: `source` is no Triton repository, is `repository` itself, or holds no model of a given name.
    """
    folders = find_model_folders(source)
    if source.resolve() == repository.resolve():
        raise TritonError(f"{str(source)!r} cannot be imported into itself; name another folder with --repository.")
    for name in names:
        if name not in folders:
            raise TritonError(f"There is no model {name!r} in {str(source)!r}; there are {_list_names(folders)}.")
    chosen = {name: folder for name, folder in folders.items() if not names or name in names}
    with _target(repository, dry_run) as target:
        return [_import(folder, repository, target, progress) for folder in chosen.values()]


def _import(folder: Path, repository: Path, target: Path, progress: ProgressCallback) -> ModelImport:
    try:
        imported = import_model(read_model_folder(folder), repository, target, progress)
    except SkippedModelError as reason:
        return ModelImport(folder.name, Outcome.SKIPPED, problem=str(reason))
    except NormfoldError as error:
        return ModelImport(folder.name, Outcome.FAILED, problem=error.on_command_line({}))
    except OSError as error:
        problem = f"Cannot read {str(error.filename or folder)!r}: {error.strerror}."
        return ModelImport(folder.name, Outcome.FAILED, problem=problem)
    outcome = Outcome.IMPORTED if imported.written else Outcome.PRESENT
    return ModelImport(folder.name, outcome, imported.written, imported.present, imported.notes)


@contextmanager
def _target(repository: Path, dry_run: bool) -> Iterator[Path]:
    if not dry_run:
        yield repository
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def _list_names(folders: Collection[str]) -> str:
    return ", ".join(map(repr, folders)) or "none"
