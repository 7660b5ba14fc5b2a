"""A shadow: a version that runs a sample of the requests after they were answered, and whose outputs are compared.

    offer ──▶ queue, bounded ──▶ wait until the service is not busy ──▶ run ──▶ compare with what was served
                  └ full: dropped and counted

Everything behind the queue happens in a thread of its own at the lowest priority of the operating system. The network
runs in that thread alone (one thread within a run), in a session of its own that serves nobody.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from queue import SimpleQueue
from random import random
from time import perf_counter
from typing import NamedTuple

import numpy as np

from normfold.contract.manifest import Manifest
from normfold.service.codec.json_tensors import Array
from normfold.service.errors import InvalidRequestError, RunError
from normfold.service.observability.rollout.shadow_stats import ShadowStats
from normfold.service.rollout.comparison import compare
from normfold.service.runtime.run_options import Cancel
from normfold.service.runtime.session import Session

MAX_QUEUED = 64
"""Requests that may wait for the shadow."""

MAX_QUEUED_BYTES = 64 * 2**20
"""Bytes of the inputs and outputs of the requests that may wait for the shadow."""

MAX_ROWS = 32
"""Rows of a request that the shadow runs, the first ones; further rows are not compared."""

BUSY_PAUSE_S = 0.05
"""Seconds between two looks whether the service is still busy."""

_LOWEST_PRIORITY = 19

logger = logging.getLogger(__name__)


class _Sample(NamedTuple):
    tensors: Mapping[str, Array]
    results: Mapping[str, Array]
    run_seconds: float
    size: int


class Shadow:
    """A version that is the shadow of its model, in one process.

    Args:
        manifest: of the version.
        session: of its network, with one thread.
        share: of the requests that it is offered, 0 to 1.
        stats: counts.
        is_busy: returns whether the service has no time to spare; called in the shadow's thread.
    """

    def __init__(
        self, manifest: Manifest, session: Session, share: float, stats: ShadowStats, is_busy: Callable[[], bool]
    ) -> None:
        self.manifest, self.share, self.stats = manifest, share, stats
        self.problem: str | None = None
        self._session, self._is_busy = session, is_busy
        self._queue: SimpleQueue[_Sample | None] = SimpleQueue()
        self._offered = self._offered_bytes = 0  # counted by the event loop
        self._done = self._done_bytes = 0  # counted by the shadow's thread
        self._closing = threading.Event()
        self._cancel = Cancel()
        self._thread = threading.Thread(target=self._work, name=f"shadow-{manifest.name}", daemon=True)
        self._thread.start()

    @property
    def is_idle(self) -> bool:
        """Whether everything that was offered is compared or dropped."""
        return self._offered == self._done

    def offer(self, tensors: Mapping[str, Array], results: Mapping[str, Array], run_seconds: float) -> None:
        """Offer a request that was answered; returns at once. Called on the event loop.

        Args:
            tensors: by input; they must not change later.
            results: by output, as they were answered.
            run_seconds: of the version that served.
        """
        if random() >= self.share:
            return
        size = sum(_held_bytes(array) for array in (*tensors.values(), *results.values()))
        if self._offered - self._done >= MAX_QUEUED or self._offered_bytes - self._done_bytes + size > MAX_QUEUED_BYTES:
            self.stats.dropped += 1
            return
        self._offered += 1
        self._offered_bytes += size
        self._queue.put(_Sample(tensors, results, run_seconds, size))

    def close(self) -> None:
        """Stop: the run that goes on is cancelled, and what waits is forgotten. Returns at once."""
        self._closing.set()
        self._cancel.set()
        self._queue.put(None)

    def join(self, timeout_s: float) -> bool:
        """Wait until the thread has ended, after `close`; return whether it has."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _work(self) -> None:
        if sys.platform == "linux":  # where a thread has a priority of its own
            with suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOWEST_PRIORITY)
        while self._work_once():
            pass

    def _work_once(self) -> bool:
        """Run and compare one request; no reference to it outlives this call."""
        sample = self._queue.get()
        if sample is None:
            return False
        while self._is_busy():
            if self._closing.wait(BUSY_PAUSE_S):
                return False
        if self._closing.is_set():
            return False
        self._try(sample)
        self._done_bytes += sample.size
        self._done += 1
        return True

    def _try(self, sample: _Sample) -> None:
        try:
            tensors, results = self._cut(sample)
            started = perf_counter()
            outputs = self._session.run(tensors, [*results], self._cancel)
            seconds = perf_counter() - started
            comparison = compare(results, dict(zip(results, outputs, strict=True)), self.manifest)
        except Exception as error:
            if self._closing.is_set():
                return
            self.stats.failed += 1
            detail = error.detail if isinstance(error, RunError) else str(error)
            if self.problem is None:
                expected = isinstance(error, RunError | InvalidRequestError)
                text = "The shadow %s/%d fails: %s (Logged once until it works again.)"
                name, version = self.manifest.name, self.manifest.version
                logger.error(text, name, version, detail, exc_info=None if expected else error)
            self.problem = f"Its last run failed: {detail}"
            return
        self.problem = None
        comparison.add_to(self.stats)
        self.stats.serving_run.observe(sample.run_seconds)
        self.stats.shadow_run.observe(seconds)

    def _cut(self, sample: _Sample) -> tuple[Mapping[str, Array], Mapping[str, Array]]:
        """Return the first rows of a request whose rows are independent."""
        if not self.manifest.batchable or len(sample.tensors) > len(self.manifest.inputs):
            return sample.tensors, sample.results
        rows = len(next(iter(sample.tensors.values())))
        if rows <= MAX_ROWS:
            return sample.tensors, sample.results
        cut = [{name: array[:MAX_ROWS] for name, array in one.items()} for one in (sample.tensors, sample.results)]
        return cut[0], cut[1]


def _held_bytes(array: Array) -> int:
    """Return the bytes that an array keeps in memory: those of the whole array that it is a view of."""
    base: object = array.base
    return base.nbytes if isinstance(base, np.ndarray | memoryview) else array.nbytes
