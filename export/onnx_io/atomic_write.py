"""Files that appear whole or not at all: written aside on the same file system, synced, then renamed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from normfold.export.errors import WriteError


@contextmanager
def staged(target: Path) -> Iterator[Path]:
    """Give a path to write to instead of `target`; on leaving without an error, put it in place.

    A symbolic link is followed. Further files written beside the given path (external data) are put beside the target,
    before it.

    Raises:
        WriteError: the target's folder is missing or not writable, the disk is full, or the target is a device or
            folder.
    """
    if target.is_symlink():
        target = target.resolve()
    if target.exists() and not target.is_file():
        raise WriteError(target, "it is not a regular file")
    with (
        translated_os_errors(target),
        tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as folder,
    ):
        path = Path(folder, target.name)
        yield path
        others = [other for other in Path(folder).iterdir() if other != path]
        for file in (*others, path):
            sync(file)
            file.replace(target.parent / file.name)
        sync(target.parent)


def sync(path: Path) -> None:
    """Force a file, or a folder's list of names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def translated_os_errors(path: Path) -> Iterator[None]:
    """Raise WriteError, naming `path`, for an OSError inside."""
    try:
        yield
    except OSError as error:
        raise WriteError(path, (error.strerror or str(error)).lower()) from None
