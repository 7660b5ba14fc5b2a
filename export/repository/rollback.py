"""Roll back to an earlier version: publish a copy of it under a new number, the highest.

Versions are never changed and history stays as it was, so a service that polls loads the copy aside and switches to it
without a gap, as it does with any new version.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from normfold.contract.manifest import MANIFEST_NAME, Manifest
from normfold.contract.progress import ProgressCallback, ignore_progress
from normfold.contract.record import to_json
from normfold.export.bundle.reservation import reservation
from normfold.export.errors import VersionChoiceError
from normfold.export.repository.versions import check_version, find_model


@dataclass(frozen=True)
class RolledBack:
    """A copy that was published."""

    path: Path
    manifest: Manifest
    is_linked: bool
    """Whether its files are hard links to those of the version copied, which need no disk space."""


def roll_back(
    repository: Path, name: str, to: int | None = None, progress: ProgressCallback = ignore_progress
) -> RolledBack:
    """Publish a copy of an earlier version as the highest one.

    Args:
        repository: the folder of models.
        name: of the model.
        to: the version to copy; None for the one before the newest.
        progress: called with each step as it begins.

    Raises:
        NoModelError, UnknownVersionError: there is no such model or version.
        VersionChoiceError: it is the newest version already, or there is none before the newest.
        DamagedVersionError: the version is not what was exported; nothing was written.
        ReadError, WriteError: the repository cannot be read or written.
    """
    model = find_model(repository, name)
    numbers = list(model.versions)
    if to is None:
        if len(numbers) < 2:
            raise VersionChoiceError(f"There is no version of {name!r} before the newest to go back to.")
        to = numbers[-2]
    source = model.version(to)
    if to == numbers[-1]:
        raise VersionChoiceError(f"Version {to} of {name!r} is the newest already; name an earlier one with --to.")
    progress(f"checking {name}/{to}")
    manifest = check_version(source.folder, repository)
    with reservation(repository, name, None) as (folder, number):
        progress(f"writing {name}/{number}")
        copy = manifest.copy_as_version(number, datetime.now(UTC).isoformat(timespec="seconds"))
        linked = [link_or_copy(source.folder / file, folder / file) for file in manifest.files]
        (folder / MANIFEST_NAME).write_text(to_json(copy))
    return RolledBack(model.folder / str(number), copy, all(linked))


def link_or_copy(source: Path, target: Path) -> bool:
    """Give a file a second name, or copy it where the file system has no such thing; return whether it was linked.

    Raises:
        OSError: it can be neither.
    """
    try:
        target.hardlink_to(os.path.realpath(source))  # of a symbolic link, the file that it leads to
    except OSError:
        shutil.copyfile(source, target)
        return False
    return True
