"""What the worker processes of one service tell each other, through small files in one folder.

    wanted.json        which models clients have asked to be loaded or unloaded, each with the number of its turn
    worker-PID.json    what one worker has done of that, whether it is ready, and what it has counted

A worker holds a lock on worker-PID.lock for as long as it lives, so a dead one is known by it, and what it had counted
is not lost. One that takes a dead one's place reads what it must load. Files are replaced whole; nothing is waited for
but by looking again.
"""

from __future__ import annotations

import fcntl
import multiprocessing
import os
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import orjson

FOLLOW_S = 0.05
"""How often a worker looks for what the others want of it."""

TELL_S = 1.0
"""How often it writes down what it has counted."""


@dataclass(frozen=True)
class Wish:
    """What is to become of a model, and the number of the turn in which it was asked for."""

    turn: int
    loaded: bool


@dataclass(frozen=True)
class WorkerStatus:
    """Another worker, as it last described itself."""

    is_alive: bool
    turn: int = 0
    problem: str | None = None
    failures: dict[str, str] = field(default_factory=dict)
    counted: dict[str, Any] = field(default_factory=dict)
    process: int = 0


class SharedState:
    """The folder, as one worker uses it.

    Args:
        folder: of this service alone; the parent process makes it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._process = folder, os.getpid()
        parent = multiprocessing.parent_process()
        self._parent = os.getppid() if parent is None else parent.pid  # which may be gone already
        folder.mkdir(parents=True, exist_ok=True)
        self._told = folder / f"worker-{self._process}.json"
        self._lock: IO[bytes] = self._told.with_suffix(".lock").open("wb")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self._seen: tuple[int, int] | None = None
        self._wishes: dict[str, Wish] = {}

    @property
    def is_orphaned(self) -> bool:
        """Whether the parent process is gone, which would have restarted and ended this one."""
        return os.getppid() != self._parent

    def tell(self, turn: int, problem: str | None, failures: dict[str, str], counted: dict[str, Any]) -> None:
        """Describe this worker to the others."""
        os.utime(self._lock.fileno())  # what sweeps temporary folders takes nothing that is in use
        _replace(self._told, {"turn": turn, "problem": problem, "failures": failures, "counted": counted})

    def others(self) -> list[WorkerStatus]:
        """Return the other workers, the dead ones too."""
        found = []
        for path in sorted(self._folder.glob("worker-*.json")):
            with suppress(OSError, ValueError):  # gone, or not ours
                if path.name != self._told.name:
                    found.append(_read_worker_status(path))
        return found

    def wishes(self) -> dict[str, Wish]:
        """Return what is wanted of every model that was ever asked for."""
        path = self._folder / "wanted.json"
        with suppress(FileNotFoundError):
            facts = path.stat()
            if (seen := (facts.st_ino, facts.st_mtime_ns)) != self._seen:
                self._wishes = {name: Wish(**wish) for name, wish in orjson.loads(path.read_bytes()).items()}
                self._seen = seen
        return self._wishes

    def wish(self, model: str, loaded: bool) -> int:
        """Ask every worker to load or to unload a model; return the number of the turn."""
        with (self._folder / "wanted.lock").open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            wishes = self.wishes()
            turn = 1 + max((wish.turn for wish in wishes.values()), default=0)
            changed = wishes | {model: Wish(turn, loaded)}
            _replace(
                self._folder / "wanted.json",
                {name: {"turn": wish.turn, "loaded": wish.loaded} for name, wish in changed.items()},
            )
        return turn

    def close(self) -> None:
        """Leave: what was counted stays for the others to sum."""
        self._lock.close()


def _read_worker_status(path: Path) -> WorkerStatus:
    """Return what a worker's file says; a worker is alive as long as its lock is held."""
    record, process = orjson.loads(path.read_bytes()), int(path.stem.removeprefix("worker-"))
    lock = path.with_suffix(".lock")
    return WorkerStatus(_is_locked(lock) if lock.exists() else _exists(process), **record, process=process)


def _exists(process: int) -> bool:
    """Whether there is such a process, where its lock was taken away."""
    try:
        os.kill(process, 0)
    except OSError:
        return False
    return True


def _is_locked(path: Path) -> bool:
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
        return False


def _replace(path: Path, record: Any) -> None:
    """Write a file whole: readers see the old one or the new one."""
    aside = path.with_suffix(f".{os.getpid()}")
    aside.write_bytes(orjson.dumps(record))
    aside.replace(path)
