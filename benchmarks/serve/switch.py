"""`normfold serve` that watches for a tenth of a second and for a tenth does not, and so on: what does that cost?

Both sides are of one process and close in time: memory that happens to lie better, or a machine that has other things
to do for a while, would set two services apart by more than watching does. At its end it writes how long it watched
and did not, by turns, and how many requests came meanwhile.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
from pathlib import Path
from time import perf_counter
from typing import Any

from normfold.cli.main import main
from normfold.service.drift.monitor import DriftMonitor

TURNS = "BENCH_TURNS"
"""Environment variable: file to write to, [[watched, requests, seconds], …]."""

TURN_S = 0.1
_ORDER = (True, False, False, True)

_offer = DriftMonitor.offer


class Turns:
    """Whose turn it is, and what was counted."""

    def __init__(self) -> None:
        self.done: list[tuple[bool, int, float]] = []
        self._requests, self._began = 0, perf_counter()

    def offer(self, watch: DriftMonitor, tensors: Any, now: float) -> None:
        """Count a request, and look at it if it is watching's turn."""
        self._requests += 1
        if self._is_watched:
            _offer(watch, tensors, now)

    def change(self, *_: object) -> None:
        """Let the other side have its turn."""
        now = perf_counter()
        self.done.append((self._is_watched, self._requests, now - self._began))
        self._requests, self._began = 0, now

    def write(self) -> None:
        """Write what was counted."""
        Path(os.environ[TURNS]).write_text(json.dumps(self.done))

    @property
    def _is_watched(self) -> bool:
        return _ORDER[len(self.done) % len(_ORDER)]


if __name__ == "__main__":
    turns = Turns()
    setattr(DriftMonitor, "offer", lambda *given: turns.offer(*given))  # noqa: B010 -- typed as a method
    atexit.register(turns.write)
    signal.signal(signal.SIGALRM, turns.change)
    signal.setitimer(signal.ITIMER_REAL, TURN_S, TURN_S)
    main()
