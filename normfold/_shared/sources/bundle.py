"""Where a bundle is that a user names: REPOSITORY/NAME, REPOSITORY/NAME/VERSION, or NAME in the usual repository."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from normfold._shared.paths import REPOSITORY, AnyPath
from normfold.contract.bundle import NAME_PATTERN, parse_version
from normfold.contract.manifest import MANIFEST_NAME
from normfold.errors import ArgumentError

if TYPE_CHECKING:
    from normfold.contract.manifest import Manifest


@dataclass(frozen=True)
class BundlePlace:
    """A model of a repository, as it was named.

    Attributes:
        repository: folder of models.
        name: of the model.
        version: of the model; None for the newest.
    """

    repository: Path
    name: str
    version: int | None = None

    def read(self) -> tuple[Path, Manifest]:
        """Return the folder of the version and its manifest, once every file was compared with it.

        Raises:
            RepositoryError: there is no such version.
            DamagedVersionError: it is not what was exported.
        """
        from normfold.export.repository.versions import check_version, find_model

        found = find_model(self.repository, self.name)
        number = max(found.versions, default=1) if self.version is None else self.version
        folder = found.version(number).folder
        return folder, check_version(folder, self.repository)


def usual_repository(given: AnyPath | None = None) -> Path:
    """Return the folder of models; where none is given, that of NORMFOLD_REPOSITORY, or model_repository."""
    return Path(given or os.environ.get("NORMFOLD_REPOSITORY") or REPOSITORY)


def find_bundle(text: str) -> BundlePlace | None:
    """Return the bundle that a text names; None if it names none. A path goes before a name in the usual repository."""
    path = Path(text)
    if is_version(path):
        folder = path.absolute()
        repository = path.parent.parent if len(path.parts) > 2 else folder.parent.parent
        return BundlePlace(repository, folder.parent.name, int(folder.name))
    if is_model(path):
        folder = path.absolute()
        return BundlePlace(path.parent if len(path.parts) > 1 else folder.parent, folder.name)
    if NAME_PATTERN.fullmatch(text) and not _exists(path) and is_model(usual_repository() / text):
        return BundlePlace(usual_repository(), text)
    return None


def place_of(text: str, repository: Path | None, version: int | None) -> BundlePlace:
    """Return the place of a bundle that a command works on, whether it is there or not.

    Args:
        text: NAME, REPOSITORY/NAME or REPOSITORY/NAME/VERSION.
        repository: folder of models, for a name alone.
        version: of the model; None for that of `text`, or the newest.

    Raises:
        ArgumentError: the text says the folder or the version, and the argument too.
    """
    path = Path(text)
    if repository is not None and len(path.parts) > 1:
        raise ArgumentError(f"`repository` goes with the name of a model alone; {text!r} names a folder, too.")
    if is_version(path) and (found := find_bundle(text)) is not None:
        if version is not None:
            raise ArgumentError(f"`version` goes with a model; {text!r} names a version, too.")
        return found
    folder = repository or (path.parent if len(path.parts) > 1 else usual_repository())
    return BundlePlace(folder, path.name, version)


def is_version(path: Path) -> bool:
    """Return whether a path is the folder of a version, NAME/VERSION/."""
    return parse_version(path.absolute().name) is not None and _exists(path / MANIFEST_NAME)


def is_run_folder(path: Path) -> bool:
    """Return whether a path is the folder of a training run."""
    return _exists(path / "config.json")


def is_model(path: Path) -> bool:
    """Return whether a path is the folder of a model: it holds a version."""
    return any(is_version(folder) for folder in _folders(path))


def models_of(path: Path) -> list[Path]:
    """Return the folders of the models in a repository; none if the path is no repository."""
    return sorted(folder for folder in _folders(path) if is_model(folder))


def _folders(path: Path) -> list[Path]:
    try:
        return [folder for folder in path.iterdir() if folder.is_dir()] if path.is_dir() else []
    except (OSError, ValueError):
        return []


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # for example a name that is too long for the file system
        return False
