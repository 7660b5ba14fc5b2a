"""Checks of a bundle's folder, NAME/VERSION/ of a repository.

    read_own_manifest   the manifest is valid, and names this folder's model and version
    check_files         the folder holds exactly the files that the manifest lists, with their sha256

The service runs them before it loads a bundle, and a rollback before it copies one. None of them opens the network.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from normfold.contract.errors import InputError
from normfold.contract.manifest import MANIFEST_NAME, MAX_VERSION, MODEL_NAME, Manifest, read_manifest, sha256_of

NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
"""Names of models; other folders of a repository are ignored."""

DIGITS = re.compile(r"[0-9]+")


class DamagedBundleError(InputError):
    """A bundle's folder does not agree with its manifest."""


def parse_version(text: str) -> int | None:
    """Parse a version, 1 to MAX_VERSION without leading zeros; return None for any other text."""
    if not DIGITS.fullmatch(text) or text.startswith("0") or len(text) > len(str(MAX_VERSION)):
        return None
    number = int(text)
    return number if number <= MAX_VERSION else None


def lies_within(path: Path, repository: Path) -> bool:
    """Return whether a path lies in the repository after symbolic links are followed.

    `realpath` resolves as much of a path as it can; `Path.resolve` raises on circular links.
    """
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(repository))


def read_own_manifest(folder: Path, repository: Path) -> Manifest:
    """Read the manifest of a bundle, and check that it names the folder's model and version.

    Args:
        folder: NAME/VERSION/.
        repository: folder of all models; the manifest must lie in it after symbolic links are followed.

    Raises:
        ManifestError: it cannot be read, or a field is wrong.
        DamagedBundleError: it is not a regular file of the repository, or names another bundle.
    """
    _require_plain_file(folder / MANIFEST_NAME, repository)
    manifest = read_manifest(folder / MANIFEST_NAME)
    here = f"{folder.parent.name}/{folder.name}"
    if (about := f"{manifest.name}/{manifest.version}") != here:
        raise DamagedBundleError(f"The manifest is about {about!r}, but lies in {here!r}.")
    return manifest


def check_files(folder: Path, manifest: Manifest, repository: Path, *, contents: bool = True) -> None:
    """Check that a bundle holds the files that its manifest lists, and no others.

    Args:
        folder: NAME/VERSION/.
        manifest: of the folder.
        repository: folder of all models; every file must lie in it after symbolic links are followed.
        contents: compare the sha256 of every file; if false, check only that the files exist.

    Raises:
        DamagedBundleError: a file is missing, changed, outside of the repository, or not listed.
    """
    if MODEL_NAME not in manifest.files:
        raise DamagedBundleError(f"The manifest does not list {MODEL_NAME!r}.")
    for name, sha256 in manifest.files.items():
        if name in ("", ".", "..") or any(sign in name for sign in "/\\\0"):
            raise DamagedBundleError(f"The manifest lists {name!r}, which is not a plain file name.")
        _require_plain_file(folder / name, repository)
        if contents:
            _check_contents(folder / name, sha256)
    _check_no_unlisted(folder, manifest)


def _check_contents(path: Path, sha256: str) -> None:
    try:
        found = sha256_of(path)
    except OSError as error:
        raise DamagedBundleError(f"The file {path.name!r} cannot be read: {error.strerror}.") from None
    if found != sha256.lower():
        raise DamagedBundleError(
            f"The file {path.name!r} is not the one that was exported: its sha256 differs from the manifest."
        )


def _require_plain_file(path: Path, repository: Path) -> None:
    """Check, before it is opened, that a path is a regular file of the repository; opening a pipe would block."""
    if not lies_within(path, repository):
        raise DamagedBundleError(f"{path.name!r} is a symbolic link that leaves the repository.")
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise DamagedBundleError(f"The file {path.name!r} cannot be read: {error.strerror}.") from None
    if not stat.S_ISREG(mode):
        raise DamagedBundleError(f"{path.name!r} is not a plain file.")


def _check_no_unlisted(folder: Path, manifest: Manifest) -> None:
    """Check that no other file lies in the folder: a model can name any of them as a file of its weights."""
    try:
        found = {path.name for path in folder.iterdir()}
    except OSError as error:
        raise DamagedBundleError(f"The folder cannot be read: {error.strerror}.") from None
    unlisted = sorted(found - manifest.files.keys() - {MANIFEST_NAME})
    if unlisted:
        raise DamagedBundleError(f"The folder holds {unlisted[0]!r}, which the manifest does not list.")
