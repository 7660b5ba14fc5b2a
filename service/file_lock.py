"""Locks on files that say that a process lives: the kernel releases them when it ends, however it ends."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import IO


def lock(path: Path, mode: int = 0o666) -> IO[bytes]:
    """Create a file if it does not exist and lock it; wait while another process holds the lock.

    Returns:
        The file; closing it releases the lock.

    Raises:
        OSError: it cannot be written.
    """
    while True:
        file = _open(path, mode)
        fcntl.flock(file, fcntl.LOCK_EX)
        if _is_same(path, file):
            return file
        file.close()  # another process has deleted it between open and lock


def try_lock(path: Path, mode: int = 0o666) -> IO[bytes] | None:
    """Do the same as `lock` without waiting; return None if another process holds the lock or deletes the file.

    Raises:
        OSError: the file cannot be written.
    """
    file = _open(path, mode)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    if _is_same(path, file):
        return file
    file.close()
    return None


def is_locked(path: Path) -> bool:
    """Return whether a process holds the lock of a file.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
        return False


def _open(path: Path, mode: int) -> IO[bytes]:
    return os.fdopen(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, mode), "wb")


def _is_same(path: Path, file: IO[bytes]) -> bool:
    try:
        return path.stat().st_ino == os.fstat(file.fileno()).st_ino
    except FileNotFoundError:
        return False
