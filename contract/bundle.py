"""A bundle's folder, NAME/VERSION/ of a repository: what it may be called, and what must be true of its files.

    read_own_manifest   the manifest can be read, and is about this folder
    check_files         exactly the files that it lists are there, as they were written

The service asks this before a bundle may answer, and whoever rolls back before a bundle is copied. Nothing here opens
the network.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from normfold.contract.errors import InputError
from normfold.contract.manifest import LARGEST_VERSION, MANIFEST_NAME, MODEL_NAME, Manifest, read_manifest, sha256_of

NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
"""Folders of a repository that are not named like this hold no model."""

DIGITS = re.compile(r"[0-9]+")


class DamagedBundleError(InputError):
    """A bundle's folder is not what its manifest says."""


def read_version(text: str) -> int | None:
    """Return the version that a folder or a request names, or None if it names none."""
    if not DIGITS.fullmatch(text) or text.startswith("0") or len(text) > len(str(LARGEST_VERSION)):
        return None
    number = int(text)
    return number if number <= LARGEST_VERSION else None


def lies_within(path: Path, repository: Path) -> bool:
    """Return whether a path leads to a place in the repository, once symbolic links are followed.

    `realpath` goes as far as it can; `Path.resolve` raises on links that lead in a circle.
    """
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(repository))


def read_own_manifest(folder: Path, repository: Path) -> Manifest:
    """Read the manifest of a bundle, which must be about the folder that it lies in.

    Args:
        folder: NAME/VERSION/.
        repository: what the manifest may not lie outside of, once symbolic links are followed.

    Raises:
        ManifestError: it cannot be read.
        DamagedBundleError: it is no plain file of the repository, or about another bundle.
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
        manifest: the folder's.
        repository: what no file may lie outside of, once symbolic links are followed.
        contents: read every file, and compare its sha256; without it, look only whether it is there.

    Raises:
        DamagedBundleError: a file is missing, changed, elsewhere or not listed.
    """
    if MODEL_NAME not in manifest.files:
        raise DamagedBundleError(f"The manifest does not list {MODEL_NAME!r}.")
    for name, sha256 in manifest.files.items():
        if name in ("", ".", "..") or any(sign in name for sign in "/\\\0"):
            raise DamagedBundleError(f"The manifest lists {name!r}, which is not a plain file name.")
        _require_plain_file(folder / name, repository)
        if contents:
            _check_contents(folder / name, sha256)
    _refuse_unlisted(folder, manifest)


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
    """Refuse, before it is opened, what is not a file of the repository: opening a pipe would wait for ever."""
    if not lies_within(path, repository):
        raise DamagedBundleError(f"{path.name!r} is a symbolic link that leaves the repository.")
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise DamagedBundleError(f"The file {path.name!r} cannot be read: {error.strerror}.") from None
    if not stat.S_ISREG(mode):
        raise DamagedBundleError(f"{path.name!r} is not a plain file.")


def _refuse_unlisted(folder: Path, manifest: Manifest) -> None:
    """Refuse what lies in the folder unchecked: ONNX Runtime reads weights from any file there that the model names."""
    try:
        found = {path.name for path in folder.iterdir()}
    except OSError as error:
        raise DamagedBundleError(f"The folder cannot be read: {error.strerror}.") from None
    unlisted = sorted(found - manifest.files.keys() - {MANIFEST_NAME})
    if unlisted:
        raise DamagedBundleError(f"The folder holds {unlisted[0]!r}, which the manifest does not list.")
