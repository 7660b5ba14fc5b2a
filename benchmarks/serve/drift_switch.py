"""`normfold serve` that switches drift monitoring on and off every tenth of a second, to measure its cost.

Both states are measured in one process and close in time: the memory layout, or other load on the machine, would change
the difference between two services by more than the monitor does. At exit it writes a log of the periods: whether the
monitor was on, the number of requests, and the duration.
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

SWITCH_LOG = "BENCH_DRIFT_PERIODS"
"""Environment variable with the file of the log: [[monitored, requests, seconds], …]."""

PERIOD_S = 0.1
_ORDER = (True, False, False, True)

_offer = DriftMonitor.offer


class Periods:
    """The current state of the monitor, and the log of finished periods."""

    def __init__(self) -> None:
        self.done: list[tuple[bool, int, float]] = []
        self._requests, self._began = 0, perf_counter()

    def offer(self, monitor: DriftMonitor, tensors: Any, now: float) -> None:
        """Count a request, and pass it to the monitor if that is on."""
        self._requests += 1
        if self._is_monitored:
            _offer(monitor, tensors, now)

    def change(self, *_: object) -> None:
        """End the period, and begin the next."""
        now = perf_counter()
        self.done.append((self._is_monitored, self._requests, now - self._began))
        self._requests, self._began = 0, now

    def write(self) -> None:
        """Write the log."""
        Path(os.environ[SWITCH_LOG]).write_text(json.dumps(self.done))

    @property
    def _is_monitored(self) -> bool:
        return _ORDER[len(self.done) % len(_ORDER)]


if __name__ == "__main__":
    periods = Periods()
    setattr(DriftMonitor, "offer", lambda *given: periods.offer(*given))  # noqa: B010 -- typed as a method
    atexit.register(periods.write)
    signal.signal(signal.SIGALRM, periods.change)
    signal.setitimer(signal.ITIMER_REAL, PERIOD_S, PERIOD_S)
    main()
