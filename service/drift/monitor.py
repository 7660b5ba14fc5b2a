"""Watches one version's inputs: takes a sample of them, off the hot path, and keeps what it saw.

The sample is bounded by its cost: a run of the monitor that took t seconds of processor time is followed by a gap of
t (1 - share) / share seconds, and by BUSY_GAPS of these while the process has little time to spare. A request that is
passed over costs one comparison.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from functools import partial
from time import perf_counter, process_time, thread_time
from typing import Any

from normfold.contract.monitor import Monitor
from normfold.service.batching.thread_pool import ThreadPool
from normfold.service.drift.sample_buffer import SampleBuffer
from normfold.service.drift.score import DriftScore, Sums, measure, rows_of
from normfold.service.drift.store import DriftStore
from normfold.service.errors import InvalidRequestError, RunError
from normfold.service.runtime.session import Array, Session

logger = logging.getLogger(__name__)

MOST_ROWS = 8
"""Of one request: more of one client's say little more."""

HAND_OVER_S = 0.0003
"""Processor time of handing a run to a thread and back, beside what the thread itself takes."""

BUSY_GAPS = 8
"""Gaps between two runs in a busy process. Beside a large network a run costs about twice its own time, in caches."""

BUSY = 0.4
"""Of the time of its processors, what a process uses that counts as busy: one that is never idle may well use one of
two. Since the last look, and what watching takes is part of it."""

SAVE_S = 5.0
"""How often what was seen is written down, where it is kept."""

_RATE_WINDOW = 0.1


class DriftMonitor:
    """What is watched of one version, in one process.

    Args:
        monitor: what is normal.
        session: of monitor.onnx, with one thread.
        workers: where it runs.
        share: of one processor's time, the most that it may take.
        processors: that the process may use.
        store: keeps what was seen, and knows what other processes saw; None: nothing is kept.
        reservoir: keeps the rows that were looked at; None: nothing is kept.
    """

    def __init__(
        self,
        monitor: Monitor,
        session: Session,
        workers: ThreadPool,
        share: float,
        processors: int,
        store: DriftStore | None = None,
        reservoir: SampleBuffer | None = None,
    ) -> None:
        self.monitor, self.share, self._session = monitor, share, session
        self._workers, self._store, self.reservoir = workers, store, reservoir
        self._sums = Sums.of(monitor) if store is None else store.adopt(reservoir)
        self._told = self._sums if store is None else self._sums.copy()
        self._outputs = [name for layer in monitor.layers for name in (layer.means, layer.squares)]
        self._processors = processors
        self._gap = 0.0
        self._due = self._overdue = self._looked_at = perf_counter()
        self._used = process_time()
        self._is_running = False
        self._is_saving = False
        self._row_s = 0.0
        self._is_closed = False

    @property
    def row_seconds(self) -> float:
        """Processor time that a row takes, of late; 0 before the first."""
        return self._row_s

    @property
    def busy_share(self) -> float:
        """Of one processor's time, the most that it may take while the process is busy."""
        return self.share / (self.share + BUSY_GAPS * (1 - self.share))

    def offer(self, tensors: Mapping[str, Array], now: float) -> None:
        """Look at a request's tensors if it is time to; called on the event loop.

        Args:
            tensors: as the network takes them, rows first; not changed later.
            now: by perf_counter.
        """
        if now < self._due or self._is_running:
            return
        if self._is_busy(now) and now < self._overdue:
            self._due = now + self._gap
            return
        self._is_running = True
        sample = {name: array[:MOST_ROWS] for name, array in tensors.items()}
        loop = asyncio.get_running_loop()
        self._workers.start(partial(self._run, sample), loop, self._ran)

    def shift(self) -> DriftScore:
        """Return how far inputs are from normal, over all processes: as written down, so that all tell the same."""
        total = self._told.copy()
        if self._store is not None:
            for other in self._store.others():
                total.add(other)
        return measure(self.monitor, total)

    def close(self) -> None:
        """Look at nothing any more; called on the event loop, before `keep`."""
        self._is_closed = True

    def keep(self) -> None:
        """Write down what was seen, for the last time; inputs may be many, so not on an event loop that others need."""
        if self._store is not None:
            self._store.save(self._sums)
        if self.reservoir is not None:
            self.reservoir.save()
        if self._store is not None:
            self._store.close()

    def _is_busy(self, now: float) -> bool:
        """Return whether the process had little time to spare since this was last asked."""
        used = process_time()
        part = (used - self._used) / max(1e-9, now - self._looked_at)
        self._used, self._looked_at = used, now
        return part > BUSY * self._processors

    def _run(self, sample: Mapping[str, Array]) -> tuple[list[tuple[Array, Array]], int, float]:
        """Run the monitor, in a thread; return its finite rows, how many were not, and the processor time it took."""
        begun = thread_time()
        results = self._session.run(sample, self._outputs)
        rows, finite = rows_of(self.monitor, dict(zip(self._outputs, results, strict=True)))
        if self.reservoir is not None:
            self.reservoir.add(sample, finite)
        return rows, int(len(finite) - finite.sum()), thread_time() - begun

    def _ran(self, outcome: Any, error: BaseException | None) -> None:
        self._is_running = False
        if isinstance(error, (RunError, InvalidRequestError)):
            self._due = perf_counter() + 1.0  # the network itself has answered the client
            return
        if error is not None:
            self._due = float("inf")
            logger.error("Inputs are watched no more.", exc_info=error)
            return
        rows, rows_not_finite, seconds = outcome
        seconds += HAND_OVER_S
        self._gap = seconds * (1 - self.share) / self.share
        now = perf_counter()
        self._due, self._overdue = now + self._gap, now + BUSY_GAPS * self._gap
        count = len(rows[0][0])
        if self._is_closed or not count + rows_not_finite:
            return
        self._sums.rows_not_finite += rows_not_finite
        if count:
            self._sums.add_request(rows, self.monitor.window_rows)
        cost = seconds / (count + rows_not_finite)
        self._row_s += _RATE_WINDOW * (cost - self._row_s) if self._row_s else cost
        self._save_soon()

    def _save_soon(self) -> None:
        """Write down what was seen within SAVE_S, whether or not anything more comes."""
        if self._store is not None and not self._is_saving:
            self._is_saving = True
            loop = asyncio.get_running_loop()
            loop.call_later(SAVE_S, self._start_saving, loop)

    def _start_saving(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._is_closed:
            self._workers.start(partial(self._save, self._sums.copy()), loop, self._saved)

    def _save(self, sums: Sums) -> Sums:
        assert self._store is not None  # or nothing would be due
        self._store.save(sums)
        if self.reservoir is not None and self.reservoir.is_due:
            self.reservoir.save()
        return sums

    def _saved(self, sums: Any, error: BaseException | None) -> None:
        self._is_saving = False
        if error is not None:
            logger.error("What was seen of inputs was not written down.", exc_info=error)
            return
        self._told = sums
        seen = (self._sums.rows, self._sums.rows_not_finite)
        if seen != (sums.rows, sums.rows_not_finite) or (self.reservoir is not None and self.reservoir.is_changed):
            self._save_soon()
