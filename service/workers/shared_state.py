"""The state that the worker processes of one service share, as small files in one folder.

    requests.json       what clients have asked for: to load or to unload a model, or to change the roles of its
                        versions (shadow, canary); of each the last request, with its generation
    worker-PID.json     a worker's status: the generation that it has reached, whether it is ready, its telemetry
    worker-PID.lock     locked while that worker lives

A worker whose lock is free has died; its telemetry still counts. The worker that replaces it reads from requests.json
what to apply. Files are replaced whole and polled.
"""

from __future__ import annotations

import multiprocessing
import os
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import orjson

from normfold.service.errors import StateDirError
from normfold.service.file_lock import is_locked, lock

POLL_INTERVAL_S = 0.05
"""Seconds between two looks of a worker at the change requests."""

PUBLISH_INTERVAL_S = 1.0
"""Seconds between two writes of a worker's status."""

_REQUESTS = "requests.json"


@dataclass(frozen=True)
class ChangeRequest:
    """The last request of one kind for a model.

    Attributes:
        generation: grows with each request.
        model: its name.
        loaded: whether the model should be loaded; None for a change of roles.
        roles: of its versions, the record of a `RoleState`; None to load or to unload.
    """

    generation: int
    model: str
    loaded: bool | None = None
    roles: dict[str, Any] | None = None


@dataclass(frozen=True)
class WorkerStatus:
    """Another worker, as it was last published.

    Attributes:
        is_alive: whether its process lives.
        generation: of the last change request that it has applied.
        problem: the reason why it is not ready; None if it is.
        failures: model to the reason why its last load failed.
        telemetry: of `Coordinator`.
        process: its id.
    """

    is_alive: bool
    generation: int = 0
    problem: str | None = None
    failures: dict[str, str] = field(default_factory=dict)
    telemetry: dict[str, Any] = field(default_factory=dict)
    process: int = 0


class SharedState:
    """The shared folder, as one worker uses it.

    Args:
        folder: of this service only; the parent process creates it.

    Raises:
        StateDirError: the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._process = folder, os.getpid()
        parent = multiprocessing.parent_process()
        self._parent = os.getppid() if parent is None else parent.pid  # which may have ended already
        self._status = folder / f"worker-{self._process}.json"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = lock(self._status.with_suffix(".lock"))
        except OSError as error:
            raise StateDirError(folder, str(error.strerror)) from None
        self._read_version: tuple[int, int] | None = None
        self._requests: dict[str, ChangeRequest] = {}

    @property
    def is_orphaned(self) -> bool:
        """Whether the parent process, which would restart and stop this one, has ended."""
        return os.getppid() != self._parent

    def publish(
        self, generation: int, problem: str | None, failures: dict[str, str], telemetry: dict[str, Any]
    ) -> None:
        """Write this worker's status; the arguments are the fields of `WorkerStatus`."""
        os.utime(self._lock.fileno())  # so that cleaners of temporary folders see it in use
        status = {"generation": generation, "problem": problem, "failures": failures, "telemetry": telemetry}
        _replace(self._status, status)

    def others(self) -> list[WorkerStatus]:
        """Return the other workers, dead ones included."""
        found = []
        for path in sorted(self._folder.glob("worker-*.json")):
            with suppress(OSError, ValueError):  # deleted, or not a status
                if path.name != self._status.name:
                    found.append(_read_status(path))
        return found

    def change_requests(self) -> dict[str, ChangeRequest]:
        """Return the last request of each kind for each model, by both."""
        path = self._folder / _REQUESTS
        with suppress(FileNotFoundError):
            facts = path.stat()
            if (version := (facts.st_ino, facts.st_mtime_ns)) != self._read_version:
                records = orjson.loads(path.read_bytes())
                self._requests = {name: ChangeRequest(**record) for name, record in records.items()}
                self._read_version = version
        return self._requests

    def request(self, model: str, loaded: bool | None = None, roles: dict[str, Any] | None = None) -> tuple[str, int]:
        """Ask every worker for a change; the arguments are the fields of `ChangeRequest`.

        Returns:
            The key of the request in `change_requests`, and its generation.
        """
        key = f"{'load' if roles is None else 'roles'} {model}"
        with lock(self._folder / "requests.lock"):
            requests = self.change_requests()
            generation = 1 + max((request.generation for request in requests.values()), default=0)
            changed = requests | {key: ChangeRequest(generation, model, loaded, roles)}
            _replace(self._folder / _REQUESTS, {name: asdict(request) for name, request in changed.items()})
        return key, generation

    def close(self) -> None:
        """Release the lock; the status stays, so that the other workers still add its telemetry."""
        self._lock.close()


def _read_status(path: Path) -> WorkerStatus:
    """Read the status of a worker, which lives as long as its lock is held."""
    record, process = orjson.loads(path.read_bytes()), int(path.stem.removeprefix("worker-"))
    lock_path = path.with_suffix(".lock")
    is_alive = is_locked(lock_path) if lock_path.exists() else _exists(process)
    return WorkerStatus(is_alive, **record, process=process)


def _exists(process: int) -> bool:
    """Return whether a process with this id exists: for a worker whose lock file was deleted."""
    try:
        os.kill(process, 0)
    except OSError:
        return False
    return True


def _replace(path: Path, record: Any) -> None:
    """Write a file whole: readers see the old one or the new one."""
    temporary = path.with_suffix(f".{os.getpid()}")
    temporary.write_bytes(orjson.dumps(record))
    temporary.replace(path)
