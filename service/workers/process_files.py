"""A folder in which each process has files of its own, and those of a process that ended pass to the next one.

STEM.lock     held by the process for as long as it writes the others, which are called STEM.* too
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from secrets import token_hex
from typing import IO

_LOCK = ".lock"


class ProcessFiles:
    """The files of one process.

    Args:
        folder: made when files are adopted.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._stem = folder / token_hex(8)  # not the process's number: in a container that is always the same
        self._lock: IO[bytes] | None = None

    def own(self, suffix: str) -> Path:
        """Return the file of this process."""
        return self._stem.with_suffix(suffix)

    def others(self, suffix: str) -> list[Path]:
        """Return the files of all other processes."""
        return sorted(path for path in self.folder.glob(f"*{suffix}") if path != self.own(suffix))

    def adopt(self, take: Callable[[Path], bool], keep: Callable[[], None]) -> None:
        """Take over what ended processes left; from now on this process's files are in use.

        Args:
            take: given the stem of their files, reads them; returns whether they may go.
            keep: called behind that, writes down what was taken: only then they go.

        Raises:
            OSError: the folder cannot be written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = _locked(self.own(_LOCK), wait=True)
        with ExitStack() as stack:
            taken = []
            for stem in sorted({path.with_suffix("") for path in self.folder.iterdir() if path.is_file()}):
                if stem == self._stem or (lock := _locked(stem.with_suffix(_LOCK), wait=False)) is None:
                    continue
                stack.callback(lock.close)
                if take(stem):
                    taken.append(stem)
            keep()
            for stem in taken:
                for path in self.folder.glob(f"{stem.name}.*"):
                    path.unlink(missing_ok=True)

    def close(self) -> None:
        """Leave the files to whoever comes next."""
        if self._lock is not None:
            self._lock.close()


def _locked(path: Path, *, wait: bool) -> IO[bytes] | None:
    """Return a lock file, locked; None if another holds it and we do not wait."""
    while True:
        file = path.open("ab")
        try:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        if _is_still(path, file):
            return file
        file.close()  # between open and lock another has adopted it
        if not wait:
            return None


def _is_still(path: Path, file: IO[bytes]) -> bool:
    try:
        return path.stat().st_ino == os.fstat(file.fileno()).st_ino
    except FileNotFoundError:
        return False
