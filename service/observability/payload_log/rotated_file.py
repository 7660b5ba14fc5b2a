"""A file of lines that is rotated by size: FILE, FILE.1 (the one before), … FILE.N (the oldest).

Several processes may append to the same file: each write holds the file's lock, and whoever fills it rotates it.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from normfold.service.lines.targets import FILE_WRITE_BYTES, write_all

_MODE = 0o600
"""Clients' data: for the owner alone."""


class RotatedFile:
    """A target of a `LineWriter`; one thread alone uses it.

    Args:
        path: of the newest file.
        max_bytes: of one file; a write that is larger is a file of its own.
        files: how many there are, the newest one included.

    Raises:
        OSError: the file cannot be written.
    """

    def __init__(self, path: Path, max_bytes: int, files: int) -> None:
        self._path, self._max_bytes, self._files = path, max_bytes, files
        self.write_bytes = min(FILE_WRITE_BYTES, max_bytes)
        self._descriptor = self._open()

    def write(self, data: bytes) -> None:
        """Append whole lines, all of them or none.

        Raises:
            OSError: they cannot be written.
        """
        with self._locked():
            size = os.fstat(self._descriptor).st_size
            if size and size + len(data) > self._max_bytes:
                self._rotate()
                if self._files > 1:
                    self.write(data)
                    return
                size = 0
            try:
                write_all(self._descriptor, data)
            except OSError:
                with suppress(OSError):
                    os.ftruncate(self._descriptor, size)  # a line that was cut would spoil the next one
                raise

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def _open(self) -> int:
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, _MODE)
        try:
            os.fchmod(descriptor, _MODE)  # it may have existed
        except OSError:
            os.close(descriptor)
            raise
        return descriptor

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Lock the file that has the path now: another process may have rotated it."""
        while True:
            descriptor = self._descriptor
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if self._is_current(descriptor):
                break
            self._descriptor = self._open()
            os.close(descriptor)
        try:
            yield
        finally:
            with suppress(OSError):  # the file was rotated and closed, which has released its lock
                fcntl.flock(descriptor, fcntl.LOCK_UN)

    def _is_current(self, descriptor: int) -> bool:
        opened = os.fstat(descriptor)
        try:
            named = self._path.stat()
        except FileNotFoundError:
            return False
        return (named.st_dev, named.st_ino) == (opened.st_dev, opened.st_ino)

    def _rotate(self) -> None:
        """Rename each file to that of the next number, the oldest away; a single file is emptied."""
        if self._files == 1:
            os.ftruncate(self._descriptor, 0)
            return
        for number in range(self._files - 1, 0, -1):
            with suppress(FileNotFoundError):
                self._numbered(number - 1).replace(self._numbered(number))

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}") if number else self._path
