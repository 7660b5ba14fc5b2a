"""Copy a version from another folder, such as a backup or another repository, into a repository.

Its number is a new one, the highest of its model, so that its manifest has to be written anew: a folder that is copied
by hand under another number is refused by every check.
"""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path

from normfold.contract.bundle import DamagedBundleError, check_files
from normfold.contract.manifest import MANIFEST_NAME, Manifest, read_manifest
from normfold.contract.progress import ProgressCallback, ignore_progress
from normfold.contract.record import ManifestError, to_json
from normfold.export.bundle.reservation import check_name, reservation
from normfold.export.errors import DamagedFolderError, VersionChoiceError


def copy_version(
    repository: Path, name: str, source: Path, progress: ProgressCallback = ignore_progress
) -> tuple[Path, Manifest]:
    """Publish a copy of a version's folder as the highest version of a model.

    Args:
        repository: the folder of models.
        name: of the model; it need not be that of the version.
        source: the version's folder, wherever it is and whatever it is called.
        progress: called with each step as it begins.

    Returns:
        The folder of the copy, and its manifest.

    Raises:
        BundleExportError: the name cannot be served.
        VersionChoiceError: the source is no version's folder.
        DamagedFolderError: the source is not what was exported; nothing was written.
        WriteError: the repository cannot be written.
    """
    check_name(name)
    if not (source / MANIFEST_NAME).is_file():
        raise VersionChoiceError(
            f"{str(source)!r} is not the folder of a version: it has no {MANIFEST_NAME!r}; name one as "
            "REPOSITORY/NAME/VERSION."
        )
    progress(f"checking {source}")
    try:
        manifest = read_manifest(source / MANIFEST_NAME)
        check_files(source, manifest, source)
    except (ManifestError, DamagedBundleError) as error:
        raise DamagedFolderError(source, str(error)) from None
    with reservation(repository, name, None) as (folder, number):
        progress(f"writing {name}/{number}")
        copy = manifest.copy_as_version(number, datetime.now(UTC).isoformat(timespec="seconds"))
        is_same_model = source.resolve().parent == (repository / name).resolve()
        copy = copy.model_copy(update={"name": name, "copy_of": manifest.version if is_same_model else None})
        for file in manifest.files:
            shutil.copyfile(source / file, folder / file)  # not a link: who owns the source may change it
        (folder / MANIFEST_NAME).write_text(to_json(copy))
    return repository / name / str(number), copy
