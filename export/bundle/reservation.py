"""A version folder that appears whole: reserved, filled, synced, renamed.

The reserved folder is called VERSION.partial. A server takes only folders that are plain numbers, so it never sees one
half-written; and since making a folder succeeds for one process only, two exports never write the same version.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from normfold.contract.atomic_write import os_errors_as_write_errors, sync, write_errors_inside
from normfold.contract.manifest import MAX_VERSION
from normfold.export.errors import BundleExportError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def check_name(name: str) -> None:
    """Check that a model's name can be a folder's name and a part of a URL.

    Raises:
        BundleExportError: it cannot.
    """
    if not _NAME.fullmatch(name):
        raise BundleExportError(
            f"The name {name!r} cannot be served: use letters, digits, '.', '_' and '-', first a letter or a digit."
        )


@contextmanager
def reservation(repository: Path, name: str, version: int | None) -> Iterator[tuple[Path, int]]:
    """Give a folder to fill, and its version; on leaving without an error, make it the version.

    Args:
        repository: the folder of models, made if it is not there.
        name: of the model.
        version: a positive number, or None for the next free one.

    Raises:
        BundleExportError: the name or version cannot be used, or the version exists.
        WriteError: the repository cannot be written, or the disk is full.
    """
    check_name(name)
    if version is not None and not 1 <= version <= MAX_VERSION:
        raise BundleExportError(f"Version {version} is not a number from 1 to {MAX_VERSION}.")
    model = repository / name
    with os_errors_as_write_errors(model):
        found_repository = repository.exists()
        model.mkdir(parents=True, exist_ok=True)
        partial, number = _reserve(model, version)
        try:
            with write_errors_inside(partial, model):
                yield partial, number
            for file in partial.iterdir():
                sync(file)
            sync(partial)
            partial.rename(model / str(number))
            sync(model)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            _remove_if_empty(model)
            if not found_repository:
                _remove_if_empty(repository)
            raise


def _reserve(model: Path, version: int | None) -> tuple[Path, int]:
    number = version or 1 + max((int(path.name.split(".")[0]) for path in _versions(model)), default=0)
    while True:
        if number > MAX_VERSION:
            raise BundleExportError(f"There is no free version of {model.name!r}: the largest is {MAX_VERSION}.")
        if (model / str(number)).exists():
            raise BundleExportError(f"Version {number} of {model.name!r} exists; a version is never overwritten.")
        partial = model / f"{number}.partial"
        try:
            partial.mkdir()
        except FileExistsError:
            if version is not None:
                raise BundleExportError(
                    f"Version {number} of {model.name!r} is being written; if that export was cut off, "
                    f"remove {str(partial)!r}."
                ) from None
            number += 1
        else:
            return partial, number


def _versions(model: Path) -> list[Path]:
    """Return the folders of versions, finished or reserved."""
    return [path for path in model.iterdir() if re.fullmatch(r"[1-9][0-9]*(\.partial)?", path.name)]


def _remove_if_empty(folder: Path) -> None:
    if not any(folder.iterdir()):
        folder.rmdir()
