"""Requests that a service writes its recent inputs now: files beside those that it writes.

STATE/drift/NAME/VERSION/SHA/PROCESS.lock      locked by the process while it lives
STATE/drift/NAME/VERSION/SHA/PROCESS.flush     a request: the process writes PROCESS.samples and deletes it
"""

from __future__ import annotations

import fcntl
from contextlib import suppress
from pathlib import Path
from time import monotonic, sleep

LOCK_SUFFIX, FLUSH_SUFFIX = ".lock", ".flush"

POLL_INTERVAL_S = 0.25
"""Seconds after which a service looks for a request."""

_WAIT_S = 5.0
"""Seconds to wait for the processes; one whose threads run a large network answers later."""


def request_flush(folder: Path, within_s: float = _WAIT_S) -> bool:
    """Request all processes that write to a folder to write what they keep, and wait until they have.

    Args:
        folder: of one version.
        within_s: how long to wait.

    Returns:
        Whether every process that lives has done it; True where none lives.
    """
    requests = []
    try:
        for path in sorted(folder.glob(f"*{LOCK_SUFFIX}")):
            if _is_locked(path):
                requests.append(path.with_suffix(FLUSH_SUFFIX))
                requests[-1].touch()
        deadline = monotonic() + within_s
        while any(request.exists() for request in requests):
            if monotonic() > deadline:
                return False
            sleep(POLL_INTERVAL_S / 10)
    except OSError:  # the folder may be read, and not be written
        return False
    finally:
        for request in requests:
            with suppress(OSError):
                request.unlink(missing_ok=True)
    return True


def _is_locked(path: Path) -> bool:
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False
