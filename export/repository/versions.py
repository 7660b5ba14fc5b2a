"""The contents of a repository on disk: versions, what is wrong with them, and leftovers of exports and deletions.

    NAME/VERSION/           a version
    NAME/VERSION.partial/   a leftover: a version that is being written, or was given up (bundle/reservation.py)
    NAME/VERSION.deleted/   a leftover: a version that is being removed, or whose removal was cut off (removal.py)

Models and versions are looked up in what was found: nothing that a user types becomes a path.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from normfold.contract.bundle import (
    NAME_PATTERN,
    DamagedBundleError,
    check_files,
    lies_within,
    parse_version,
    read_own_manifest,
)
from normfold.contract.errors import NormfoldError
from normfold.contract.manifest import Manifest
from normfold.contract.record import ManifestError
from normfold.export.errors import (
    DamagedVersionError,
    ForeignFolderError,
    NoModelError,
    NoRepositoryError,
    ReadError,
    UnknownVersionError,
)

_LEFTOVER = re.compile(r"([1-9][0-9]*)\.(partial|deleted)")


@dataclass(frozen=True)
class Version:
    """One version of a model."""

    number: int
    folder: Path
    size: int
    """Bytes that its files hold."""
    manifest: Manifest | None
    problem: str | None
    """Why it cannot answer, in one sentence; None if nothing is wrong in what is read without loading it."""


@dataclass(frozen=True)
class Leftover:
    """A folder that no server looks at."""

    folder: Path
    is_reserved: bool
    """Whether an export may still be filling it."""
    changed: float
    """When it, or a file in it, changed last: seconds since 1970."""


@dataclass(frozen=True)
class ModelFolder:
    """One model's folder: versions and leftovers in ascending order."""

    name: str
    folder: Path
    versions: dict[int, Version] = field(default_factory=dict)
    leftovers: tuple[Leftover, ...] = ()
    fault: NormfoldError | None = None
    """Why its versions are not listed."""

    def version(self, number: int) -> Version:
        """Return one of its versions.

        Raises:
            UnknownVersionError: it has no such version.
        """
        if number not in self.versions:
            raise UnknownVersionError(self.name, number, list(self.versions))
        return self.versions[number]


def find_models(repository: Path, contents: bool = False) -> dict[str, ModelFolder]:
    """List a repository. A model whose versions cannot be listed is there, with the reason.

    Args:
        repository: the folder.
        contents: read every file whole, and verify its sha256.

    Raises:
        NoRepositoryError: it is not a folder.
        ReadError: it cannot be read.
    """
    try:
        folders = sorted(path for path in repository.iterdir() if NAME_PATTERN.fullmatch(path.name))
    except (FileNotFoundError, NotADirectoryError):
        raise NoRepositoryError(repository) from None
    except OSError as error:
        raise ReadError(repository, _reason(error)) from None
    models = (_read_model_folder(path, repository, contents) for path in folders)
    return {model.name: model for model in models if model.versions or model.leftovers or model.fault}


def find_model(repository: Path, name: str, contents: bool = False) -> ModelFolder:
    """Return one model, whose versions could be listed; `contents` as in `find_models`.

    Raises:
        NoRepositoryError: the repository is not a folder.
        NoModelError: there is no model of that name.
        ForeignFolderError: its folder is a link to what is not its own.
        ReadError: the repository or the model's folder cannot be read.
    """
    models = find_models(repository, contents)
    if name not in models:
        raise NoModelError(repository, name, list(models))
    model = models[name]
    if model.fault is not None:
        raise model.fault
    return model


def check_version(folder: Path, repository: Path) -> Manifest:
    """Read the manifest of a version, NAME/VERSION/, once every file was compared with it.

    Raises:
        DamagedVersionError: it is not what was exported.
    """
    try:
        manifest = read_own_manifest(folder, repository)
        check_files(folder, manifest, repository)
    except (ManifestError, DamagedBundleError) as error:
        raise DamagedVersionError(folder.parent.name, int(folder.name), str(error)) from None
    return manifest


def file_stats(folder: Path) -> Iterator[os.stat_result]:
    """Yield the stat of each file in a folder; none for files that vanish meanwhile, or where the folder is a link."""
    for parent, _, names in os.walk(folder) if not folder.is_symlink() else ():
        for name in names:
            try:
                yield Path(parent, name).lstat()
            except OSError:
                continue


def held_bytes(folders: Iterable[Path]) -> int:
    """Return how many bytes the files in some folders hold, those with several names counted once."""
    return sum({(entry.st_dev, entry.st_ino): entry.st_size for path in folders for entry in file_stats(path)}.values())


def _read_model_folder(folder: Path, repository: Path, contents: bool) -> ModelFolder:
    name = folder.name
    if (leads_to := _foreign_target(folder, repository)) is not None:
        return ModelFolder(name, folder, fault=ForeignFolderError(folder, leads_to))
    try:
        if not stat.S_ISDIR(folder.stat().st_mode):
            return ModelFolder(name, folder)
        found = sorted(folder.iterdir())
    except OSError as error:
        return ModelFolder(name, folder, fault=ReadError(folder, _reason(error)))
    numbers = {
        number: path for path in found if (number := parse_version(path.name)) is not None and _may_be_folder(path)
    }
    versions = {
        number: _read_version_folder(number, numbers[number], repository, contents) for number in sorted(numbers)
    }
    leftovers = [_read_leftover(path) for path in found if _LEFTOVER.fullmatch(path.name)]
    return ModelFolder(name, folder, versions, tuple(leftover for leftover in leftovers if leftover is not None))


def _foreign_target(folder: Path, repository: Path) -> str | None:
    """Return where a model's folder leads to, if that is another model's folder, or out of the repository."""
    if not folder.is_symlink():
        return None
    if not lies_within(folder, repository):
        return "that leaves the repository"
    target = Path(os.path.realpath(folder))
    is_model = target.parent == Path(os.path.realpath(repository)) and NAME_PATTERN.fullmatch(target.name)
    return f"to the model {target.name!r}" if is_model else None


def _may_be_folder(path: Path) -> bool:
    """Return whether a path is a folder, or may be one as far as known."""
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except OSError:
        return True


def _read_version_folder(number: int, folder: Path, repository: Path, contents: bool) -> Version:
    if not lies_within(folder, repository):
        return Version(number, folder, 0, None, "It is a symbolic link that leaves the repository.")
    size = held_bytes([Path(os.path.realpath(folder))])
    try:
        manifest = read_own_manifest(folder, repository)
    except (ManifestError, DamagedBundleError) as error:
        return Version(number, folder, size, None, str(error))
    try:
        check_files(folder, manifest, repository, contents=contents)
    except DamagedBundleError as error:
        return Version(number, folder, size, manifest, str(error))
    return Version(number, folder, size, manifest, None)


def _read_leftover(folder: Path) -> Leftover | None:
    try:
        changed = max([folder.lstat().st_mtime, *(entry.st_mtime for entry in file_stats(folder))])
    except OSError:  # it has just become a version, or is gone
        return None
    return Leftover(folder, folder.name.endswith(".partial"), changed)


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
