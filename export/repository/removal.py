"""Remove versions and leftovers from a repository beside a service that may look at any moment.

A folder is first renamed to VERSION.deleted, which no server takes for a version, and then removed: a version is there
whole or not at all. A removal that is cut off leaves that folder behind, for prune to clean.
"""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from normfold.contract.atomic_write import os_errors_as_write_errors, sync
from normfold.export.errors import VersionChoiceError
from normfold.export.repository.versions import Leftover, ModelFolder, Version, file_stats

ABANDONED_AFTER_S = 3600
"""A reserved folder in which nothing has changed for this long is taken for one that was given up."""


@dataclass(frozen=True)
class Removal:
    """Folders of one model that are chosen to be removed, and not removed yet."""

    model: ModelFolder
    versions: tuple[Version, ...]
    leftovers: tuple[Leftover, ...] = ()

    @property
    def folders(self) -> list[Path]:
        """The folders, those of leftovers first, and the highest version last."""
        return [leftover.folder for leftover in self.leftovers] + [version.folder for version in self.versions]


def choose_versions(model: ModelFolder, numbers: Iterable[int], *, last: bool = False) -> Removal:
    """Choose versions by number.

    Args:
        model: the model.
        numbers: the numbers of its versions.
        last: whether all versions that can answer may be among them.

    Raises:
        UnknownVersionError: there is no such version.
        VersionChoiceError: no version that can answer would be left.
    """
    chosen = [model.version(number) for number in sorted(set(numbers))]
    left = [version for version in model.versions.values() if version not in chosen]
    takes_an_answer = any(version.problem is None for version in chosen)
    if not last and (not left or (takes_an_answer and all(version.problem for version in left))):
        raise VersionChoiceError(f"No version of {model.name!r} that can answer would be left; pass --last to confirm.")
    return Removal(model, tuple(chosen))


def choose_old(model: ModelFolder, keep: int) -> Removal:
    """Choose the versions below the `keep` highest that can answer, and the leftovers that no export fills any more.

    Versions with a problem are not counted: otherwise those that answer would go, and those that cannot would stay.
    """
    answering = [version.number for version in model.versions.values() if version.problem is None]
    lowest = answering[-keep] if len(answering) >= keep else 0
    old = tuple(version for version in model.versions.values() if version.number < lowest)
    return Removal(model, old, tuple(leftover for leftover in model.leftovers if is_abandoned(leftover)))


def is_abandoned(leftover: Leftover) -> bool:
    """Return whether a leftover is old enough that nobody works on it any more."""
    return not leftover.is_reserved or time.time() - leftover.changed > ABANDONED_AFTER_S


def freed_bytes(folders: Iterable[Path]) -> int:
    """Return how many bytes come free with some folders: a file that also has a name elsewhere frees nothing."""
    names: Counter[tuple[int, int]] = Counter()
    freed = 0
    for folder in folders:
        for facts in file_stats(folder):
            file = facts.st_dev, facts.st_ino
            names[file] += 1
            if names[file] == facts.st_nlink:
                freed += facts.st_size
    return freed


def remove(removal: Removal) -> None:
    """Remove what was chosen, and the model's folder if nothing is left in it. A missing folder is not an error.

    Raises:
        WriteError: the file system refuses to delete it.
    """
    for folder in removal.folders:
        with os_errors_as_write_errors(folder):
            _remove(folder)
    with suppress(OSError):  # not empty
        removal.model.folder.rmdir()


def _remove(folder: Path) -> None:
    aside = folder.with_suffix(".deleted")
    if aside != folder:
        if os.path.lexists(aside):
            _erase(aside)  # left by an earlier removal of the same number
        try:
            folder.rename(aside)
        except FileNotFoundError:
            return
        sync(folder.parent)
    _erase(aside)


def _erase(folder: Path) -> None:
    with suppress(FileNotFoundError):
        if folder.is_symlink():
            folder.unlink()
        else:
            shutil.rmtree(folder)
