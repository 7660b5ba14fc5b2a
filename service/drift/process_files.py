"""A folder in which each process has files of its own; the next process adopts those of one that has ended.

STEM.lock     locked by the process for as long as it writes its other files, STEM.*
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from secrets import token_hex
from typing import IO

from normfold.contract.drift.flush_request import LOCK_SUFFIX
from normfold.service.file_lock import lock, try_lock


class ProcessFiles:
    """The files of one process.

    Args:
        folder: created by `adopt`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._stem = folder / token_hex(8)  # not the process id: in a container that is always the same
        self._lock: IO[bytes] | None = None

    def own(self, suffix: str) -> Path:
        """Return the path of this process's file."""
        return self._stem.with_suffix(suffix)

    def others(self, suffix: str) -> list[Path]:
        """Return the files of all other processes."""
        return sorted(path for path in self.folder.glob(f"*{suffix}") if path != self.own(suffix))

    def adopt(self, read: Callable[[Path], bool], save: Callable[[], None]) -> None:
        """Lock this process's files, and adopt the files of processes that have ended.

        Args:
            read: called with the stem of their files; returns whether these may be deleted.
            save: called after that, writes what was read; the adopted files are deleted afterwards.

        Raises:
            OSError: the folder cannot be written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = lock(self.own(LOCK_SUFFIX))
        with ExitStack() as stack:
            adopted = []
            for stem in sorted({path.with_suffix("") for path in self.folder.iterdir() if path.is_file()}):
                if stem == self._stem or (other := try_lock(stem.with_suffix(LOCK_SUFFIX))) is None:
                    continue
                stack.callback(other.close)
                if read(stem):
                    adopted.append(stem)
            save()
            for stem in adopted:
                for path in self.folder.glob(f"{stem.name}.*"):
                    path.unlink(missing_ok=True)

    def close(self) -> None:
        """Release the lock: the next process may adopt the files."""
        if self._lock is not None:
            self._lock.close()
