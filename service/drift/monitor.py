"""The drift monitor of one version: samples its inputs off the hot path, and keeps the sums of their statistics.

The sample is bounded by its cost: a run of the monitor that took t seconds of processor time is followed by a gap of
t (1 - share) / share seconds, and by BUSY_GAPS such gaps while the process is busy. A request that is not sampled costs
one comparison.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from functools import partial
from time import perf_counter, process_time, thread_time
from typing import Any

from normfold.contract.drift.monitor import Monitor
from normfold.service.batching.thread_pool import ThreadPool
from normfold.service.codec.json_tensors import DTYPES
from normfold.service.drift.sample_buffer import SampleBuffer
from normfold.service.drift.score import DriftScore, WindowSums, finite_rows, score_drift
from normfold.service.drift.store import DriftStore
from normfold.service.errors import InvalidRequestError, RunError
from normfold.service.runtime.session import Array, Session

logger = logging.getLogger(__name__)

MAX_ROWS_PER_REQUEST = 8
"""More rows of one request add little: they are often alike."""

HANDOVER_S = 0.0003
"""Processor time of handing a run to a thread and back, besides what the thread itself takes."""

BUSY_GAPS = 8
"""Gaps between two runs in a busy process: beside a large network a run costs about twice its own time, in caches."""

BUSY_UTILIZATION = 0.4
"""Part of its processors' time from which on a process is busy: one that never idles may well use one of two. It is
measured since the last request that was due, runs of the monitor included."""

SAVE_INTERVAL_S = 5.0
"""Seconds between two writes of the sums, where there is a store."""

_RATE_WEIGHT = 0.1
"""Weight of the last run in the moving average of `row_seconds`."""


class DriftMonitor:
    """The drift monitor of one version, in one process.

    Args:
        monitor: the layers, and the statistics of training.
        session: of monitor.onnx, with one thread; it takes float32 where a network takes float16.
        thread_pool: runs it.
        share: of one processor's time, the most that the monitor may take; more than 0, at most 1.
        processors: that the process may use.
        store: keeps the sums, and reads those of other processes; None: they are kept in memory only.
        samples: keeps the sampled rows; None: they are not kept.
    """

    def __init__(
        self,
        monitor: Monitor,
        session: Session,
        thread_pool: ThreadPool,
        share: float,
        processors: int,
        store: DriftStore | None = None,
        samples: SampleBuffer | None = None,
    ) -> None:
        self.monitor, self.share, self._session = monitor, share, session
        self._thread_pool, self._store, self.samples = thread_pool, store, samples
        self._sums = WindowSums.of(monitor) if store is None else store.adopt(samples)
        self._saved_sums = self._sums if store is None else self._sums.copy()
        self._outputs = [name for layer in monitor.layers for name in (layer.means, layer.squares)]
        self._dtypes = {name: DTYPES[datatype] for name, (datatype, _) in session.inputs.items() if datatype in DTYPES}
        self._processors = processors
        self._gap = 0.0
        self._due = self._busy_due = self._measured_at = perf_counter()
        self._process_time = process_time()
        self._is_running = False
        self._is_saving = False
        self._row_s = 0.0
        self._is_closed = False

    @property
    def row_seconds(self) -> float:
        """Processor time of a row, a moving average; 0 before the first."""
        return self._row_s

    @property
    def busy_share(self) -> float:
        """Maximum share of one processor's time that the monitor takes while the process is busy."""
        return self.share / (self.share + BUSY_GAPS * (1 - self.share))

    def offer(self, tensors: Mapping[str, Array], now: float) -> None:
        """Sample the tensors of a request if a run is due; called on the event loop.

        Args:
            tensors: the network's inputs, rows first; they must not change later.
            now: by perf_counter.
        """
        if now < self._due or self._is_running:
            return
        if self._is_busy(now) and now < self._busy_due:
            self._due = now + self._gap
            return
        self._is_running = True
        sample = {name: array[:MAX_ROWS_PER_REQUEST] for name, array in tensors.items()}
        loop = asyncio.get_running_loop()
        self._thread_pool.start(partial(self._run, sample), loop, self._on_run_done)

    def score(self) -> DriftScore:
        """Return the drift of the inputs of all processes, as last saved: so every process returns the same."""
        total = self._saved_sums.copy()
        if self._store is not None:
            for other in self._store.read_others():
                total.add(other)
        return score_drift(self.monitor, total)

    def close(self) -> None:
        """Sample no more; called on the event loop, before `save_and_close`."""
        self._is_closed = True

    def save_and_close(self) -> None:
        """Write sums and samples for the last time and close the store; it may take long, so not on the event loop."""
        if self._store is not None:
            self._store.save(self._sums)
        if self.samples is not None:
            self.samples.save()
        if self._store is not None:
            self._store.close()

    def _is_busy(self, now: float) -> bool:
        """Return whether the process was busy since the last call."""
        used = process_time()
        utilization = (used - self._process_time) / max(1e-9, now - self._measured_at)
        self._process_time, self._measured_at = used, now
        return utilization > BUSY_UTILIZATION * self._processors

    def _run(self, sample: Mapping[str, Array]) -> tuple[list[tuple[Array, Array]], int, float]:
        """Run the monitor, in a thread.

        Returns:
            The statistics of the finite rows, by layer; the number of other rows; seconds of processor time.
        """
        started = thread_time()
        sample = {name: array.astype(self._dtypes.get(name, array.dtype), copy=False) for name, array in sample.items()}
        results = self._session.run(sample, self._outputs)
        rows, is_finite = finite_rows(self.monitor, dict(zip(self._outputs, results, strict=True)))
        if self.samples is not None:
            self.samples.add(sample, is_finite)
        return rows, int(len(is_finite) - is_finite.sum()), thread_time() - started

    def _on_run_done(self, outcome: Any, error: BaseException | None) -> None:
        self._is_running = False
        if isinstance(error, (RunError, InvalidRequestError)):
            self._due = perf_counter() + 1.0  # the client gets the error of the network itself
            return
        if error is not None:
            self._due = float("inf")
            logger.error("Drift is no longer monitored.", exc_info=error)
            return
        rows, rows_not_finite, seconds = outcome
        seconds += HANDOVER_S
        self._gap = seconds * (1 - self.share) / self.share
        now = perf_counter()
        self._due, self._busy_due = now + self._gap, now + BUSY_GAPS * self._gap
        count = len(rows[0][0])
        if self._is_closed or not count + rows_not_finite:
            return
        self._sums.rows_not_finite += rows_not_finite
        if count:
            self._sums.add_request(rows, self.monitor.window_rows)
        row_s = seconds / (count + rows_not_finite)
        self._row_s += _RATE_WEIGHT * (row_s - self._row_s) if self._row_s else row_s
        self._schedule_save()

    def _schedule_save(self) -> None:
        """Save the sums within SAVE_INTERVAL_S, even if no further request arrives."""
        if self._store is not None and not self._is_saving:
            self._is_saving = True
            loop = asyncio.get_running_loop()
            loop.call_later(SAVE_INTERVAL_S, self._start_saving, loop)

    def _start_saving(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._is_closed:
            self._thread_pool.start(partial(self._save, self._sums.copy()), loop, self._on_saved)

    def _save(self, sums: WindowSums) -> WindowSums:
        assert self._store is not None  # or no save would be scheduled
        self._store.save(sums)
        if self.samples is not None and self.samples.is_due:
            self.samples.save()
        return sums

    def _on_saved(self, sums: Any, error: BaseException | None) -> None:
        self._is_saving = False
        if error is not None:
            logger.error("The state of drift monitoring was not saved.", exc_info=error)
            return
        self._saved_sums = sums
        current = (self._sums.rows, self._sums.rows_not_finite)
        if current != (sums.rows, sums.rows_not_finite) or (self.samples is not None and self.samples.is_changed):
            self._schedule_save()
