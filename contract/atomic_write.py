"""Files that appear whole or not at all: written beside their target, synced to disk, then renamed.

`atomic_path` is for what writes to a path, perhaps several files; `write_atomically` for bytes in memory. A
`temporary_folder` is for files that are read again before a command ends.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from normfold.contract.errors import WriteError

_OTHER_FOLDER = "TMPDIR names another folder for temporary files"


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
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
        os_errors_as_write_errors(target),
        tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as folder,
        write_errors_inside(Path(folder), target),
    ):
        path = Path(folder, target.name)
        yield path
        others = [other for other in Path(folder).iterdir() if other != path]
        for file in (*others, path):
            sync(file)
            file.replace(target.parent / file.name)
        sync(target.parent)


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Give a folder that is removed on leaving.

    Raises:
        WriteError: naming the folder of temporary files: it cannot be written, or its disk is full.
    """
    parent = Path(tempfile.gettempdir())
    try:
        with (
            os_errors_as_write_errors(parent),
            tempfile.TemporaryDirectory(prefix="normfold-") as folder,
            write_errors_inside(Path(folder), parent),
        ):
            yield Path(folder)
    except WriteError as error:
        if error.path != parent or error.reason.endswith(_OTHER_FOLDER):  # a folder inside of another says it already
            raise
        raise WriteError(parent, f"{error.reason}; {_OTHER_FOLDER}") from None


@contextmanager
def write_errors_inside(folder: Path, target: Path) -> Iterator[None]:
    """Raise a WriteError that names `target` for one that names a path inside a folder which nobody sees."""
    try:
        yield
    except WriteError as error:
        if not error.path.is_relative_to(folder):
            raise
        raise WriteError(target, error.reason) from None


def write_atomically(path: Path, data: bytes) -> None:
    """Write under a temporary name, flush to disk, then rename: an interruption leaves the old file or the new one.

    Raises:
        OSError: the folder is missing or cannot be written, or the disk is full; it names `path`, and no temporary file
            is left.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data)
        sync(temporary)
        temporary.replace(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def remove_temporaries(path: Path) -> None:
    """Remove what `write_atomically` left of this file in processes that were killed."""
    if not path.parent.is_dir():
        return
    pattern = re.compile(rf"\.{re.escape(path.name)}\.\d+\.tmp")
    for entry in path.parent.iterdir():
        if pattern.fullmatch(entry.name):
            entry.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Flush a file, or a folder's list of names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def os_errors_as_write_errors(path: Path) -> Iterator[None]:
    """Raise WriteError, naming `path`, for an OSError inside."""
    try:
        yield
    except OSError as error:
        raise WriteError(path, (error.strerror or str(error)).lower()) from None
