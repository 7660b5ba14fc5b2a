"""List the bundles of a repository: a folder NAME/VERSION/ for each. No file of them is opened."""

from __future__ import annotations

import logging
import stat
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from normfold.contract.bundle import DIGITS, NAME_PATTERN, lies_within, parse_version
from normfold.contract.manifest import MAX_VERSION

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScanResult:
    """The bundles of a repository.

    Attributes:
        models: the version folders of each model.
        unreadable: models whose versions cannot be listed, and the reason.
    """

    models: dict[str, dict[int, Path]] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)


def scan(root: Path) -> ScanResult:
    """List a repository; folders that are not named like a model or a version are ignored.

    Raises:
        OSError: the repository itself cannot be listed, or does not exist.
    """
    found = ScanResult()
    for path in sorted(root.iterdir()):
        if not NAME_PATTERN.fullmatch(path.name):
            continue
        try:
            if versions := _list_versions(path, root):
                found.models[path.name] = versions
        except OSError as error:
            found.unreadable[path.name] = f"its folder cannot be read: {error.strerror}."
    return found


Fingerprint = tuple[tuple[str | int, ...], ...]


def fingerprint(folder: Path) -> Fingerprint:
    """Return numbers that change when a file of a bundle is written or replaced; empty if the folder cannot be read.

    The change time of an inode cannot be set back, so even a file that was replaced for a moment is detected.
    """
    with suppress(OSError):
        found = [(path.name, path.stat() if path.exists() else path.lstat()) for path in sorted(folder.iterdir())]
        return tuple(
            (name, facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)
            for name, facts in found
        )
    return ()


def _list_versions(model: Path, root: Path) -> dict[int, Path]:
    versions = {}
    for folder in model.iterdir() if _is_usable_folder(model, root) else ():
        number = parse_version(folder.name)
        if number is not None and _is_usable_folder(folder, root):
            versions[number] = folder
        elif number is None and DIGITS.fullmatch(folder.name):
            logger.warning("%s is ignored: versions go from 1 to %d.", folder, MAX_VERSION)
    return dict(sorted(versions.items()))


def _is_usable_folder(path: Path, root: Path) -> bool:
    with suppress(OSError):  # opening it will give the reason
        if not stat.S_ISDIR(path.stat().st_mode):
            return False
    if not lies_within(path, root):
        logger.warning("%s is ignored: it is a symbolic link that leaves the repository.", path)
        return False
    return True
