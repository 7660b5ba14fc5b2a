"""Dynamic batching for one loaded version of a model.

    submit ──▶ RequestQueue ──form_batch──▶ Batch ──run_batch──▶ results, split by request
                    │                          │
                    └ deadline or cancel:      └ deadline or cancel: its last open request
                      the request is dropped     stops the run

`RequestQueue.form_batch` in request_queue.py forms the batches; `run_batch` in batch_run.py pads and runs them.

Work-conserving: whenever nothing runs, what waits runs at once, up to `max_batch_size` rows. Rows are counted, not
requests; a request with more rows is split and its results are concatenated. Where a new batch size is expensive, a
batch is padded with rows of zeros to a size that was warmed up. A network that runs faster than a thread is woken runs
on the event loop, after the requests that arrived together; any other runs in a thread, one batch at a time.

The event loop alone touches a Batcher. When a batch of several requests fails, each of them is run again singly, so
that one invalid request does not fail the others.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from time import perf_counter
from typing import Any

from normfold.contract.errors import NormfoldError
from normfold.service.batching.batch import Batch, BatchPolicy, QueuedRequest, Results, concatenate
from normfold.service.batching.batch_run import RunNetwork, run_batch
from normfold.service.batching.deadline_timer import DeadlineTimer
from normfold.service.batching.request_queue import RequestQueue
from normfold.service.batching.thread_pool import ThreadPool
from normfold.service.errors import ClientDisconnectedError, DeadlineError, QueueFullError, RunError, UnloadedError

_SECONDS_PER_ROW_WEIGHT = 0.2
"""Weight of the last run in the moving average that Retry-After is computed from."""


class Batcher:
    """The queue of one version and the runs of its batches.

    Args:
        run: the network.
        policy: limits.
        thread_pool: for a network that does not run inline.
        on_run: called with rows and seconds of every run.
        on_rejected: called whenever the queue is full for a request.
    """

    def __init__(
        self,
        run: RunNetwork,
        policy: BatchPolicy,
        thread_pool: ThreadPool,
        on_run: Callable[[int, float], None] = lambda *_: None,
        on_rejected: Callable[[], None] = lambda: None,
    ) -> None:
        self.policy = policy
        self._run, self._thread_pool, self._on_run, self._on_rejected = run, thread_pool, on_run, on_rejected
        self._queue = RequestQueue()
        self._running: Batch | None = None
        self._retries: deque[Batch] = deque()
        self._next_run: asyncio.Handle | None = None
        self._deadlines = DeadlineTimer(self._expire_overdue)
        self._seconds_per_row = 0.0
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def queued_rows(self) -> int:
        """Rows that wait."""
        return self._queue.rows

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits and nothing runs."""
        return not self._queue.rows and self._running is None and not self._retries

    @property
    def retry_after_s(self) -> int:
        """Seconds until the rows that wait now will have run, by the measured rate; at least 1."""
        return max(1, math.ceil(self._queue.rows * self._seconds_per_row))

    def require_capacity(self, rows: int = 1) -> None:
        """Check that the queue has capacity for some rows.

        A request with more rows than `queue_capacity` is accepted when the queue is empty; else it could never run.

        Raises:
            QueueFullError: the queue lacks that capacity; the error says when to retry.
        """
        if self._queue.rows and self._queue.rows + rows > self.policy.queue_capacity:
            self._on_rejected()
            raise QueueFullError(self.policy.queue_capacity, self.retry_after_s)

    def submit(self, request: QueuedRequest) -> asyncio.Future[Results]:
        """Give a request a future and enqueue it.

        Returns:
            Its results by output, rows in order; or DeadlineError, RunError, InvalidRequestError, UnloadedError,
            ClientDisconnectedError.

        Raises:
            QueueFullError: the queue is full.
            UnloadedError: the version was unloaded.
        """
        request.future = future = asyncio.get_running_loop().create_future()
        self.enqueue(request)
        return future

    def enqueue(self, request: QueuedRequest) -> None:
        """Put a request that has a future into the queue.

        Raises:
            QueueFullError: the queue is full.
            UnloadedError: the version was unloaded.
        """
        if self._closed:
            raise UnloadedError
        self.require_capacity(request.rows)
        if self._loop is None:
            self._loop = asyncio.get_running_loop()  # kept: each call asks the kernel for the process id
        request.queued_at = perf_counter()
        self._queue.append(request)
        if self._running is not None or self.policy.delay_s:
            self._deadlines.schedule(request.deadline, self._loop)
        self._schedule_run()

    def cancel(self, request: QueuedRequest) -> None:
        """Drop a request whose client disconnected; a batch without any other open request stops."""
        self._fail_request(request, ClientDisconnectedError())

    def close(self, reason: NormfoldError | None = None) -> None:
        """Fail everything that waits or runs, with UnloadedError or the given error, and accept nothing more."""
        self._closed = True
        for request in [*self._open_requests()]:
            if not request.is_done and request.future is not None:
                request.future.set_exception(reason or UnloadedError())
        if self._running is not None:
            self._running.cancel.set()
        self._queue.clear()
        self._deadlines.cancel()

    def _require_loop(self) -> asyncio.AbstractEventLoop:
        assert self._loop is not None  # set by the first enqueue
        return self._loop

    def _schedule_run(self) -> None:
        """Schedule the next run: after the requests that arrived together are read, or when the batch delay is over."""
        if self._running is not None:
            return
        loop, is_full = self._require_loop(), self._queue.rows >= self.policy.max_batch_size
        if self._next_run is not None:
            if not (is_full and self.policy.delay_s):
                return
            self._next_run.cancel()
        delayed = self.policy.delay_s and not is_full and not self._retries
        self._next_run = (
            loop.call_later(self.policy.delay_s, self._run_next) if delayed else loop.call_soon(self._run_next)
        )

    def _run_next(self) -> None:
        """Run the next batch, unless one runs."""
        self._next_run = None
        if self._running is not None or self._closed:
            return
        batch = self._next_batch()
        if batch is None:
            return
        self._running, started = batch, perf_counter()
        if self.policy.inline:
            try:
                outcome: Any = run_batch(self._run, batch, self.policy)
            except Exception as error:  # noqa: BLE001 -- the requests get it
                outcome = error
            self._finish(batch, outcome, perf_counter() - started)
        else:
            loop = self._require_loop()
            self._thread_pool.start(
                partial(run_batch, self._run, batch, self.policy), loop, partial(self._on_thread_done, batch, started)
            )
            self._deadlines.schedule(min(request.deadline for request, _, _ in batch.members), loop)

    def _next_batch(self) -> Batch | None:
        """Return a batch to retry, or one formed of the queue; None if nothing is to run."""
        while self._retries:
            batch = self._retries.popleft()
            if not batch.is_done:
                return batch
        return self._queue.form_batch(self.policy.max_batch_size, perf_counter(), self._expire)

    def _on_thread_done(self, batch: Batch, started: float, results: Results, error: BaseException | None) -> None:
        """Handle the outcome of a run in a thread."""
        if error is not None and not isinstance(error, Exception):
            error = RunError(repr(error))
        self._finish(batch, error or results, perf_counter() - started)

    def _finish(self, batch: Batch, outcome: Results | Exception, seconds: float) -> None:
        """Give each request of a batch its outcome, and start the next run; a run in a thread starts first."""
        self._running = None
        rows = batch.rows
        if isinstance(outcome, Exception):
            self._retry_singly(batch, outcome)
        else:
            self._on_run(rows, seconds)
            self._seconds_per_row += _SECONDS_PER_ROW_WEIGHT * (seconds / rows - self._seconds_per_row)
            if self._queue.rows and not self.policy.inline and not self.policy.delay_s:
                self._run_next()
            self._deliver(batch, outcome, rows)
        if self._queue.rows or self._retries:
            self._schedule_run()

    def _deliver(self, batch: Batch, results: Results, rows: int) -> None:
        """Give each request its rows of the results; a request that was split gets them with its last rows."""
        now, at, alone = perf_counter(), 0, len(batch.members) == 1
        for request, start, stop in batch.members:
            end = at + stop - start
            if not request.is_done:
                own = results if alone else {name: results[name][at:end] for name in request.outputs}
                request.run_started_at = request.run_started_at or batch.run_started_at
                request.run_ended_at, request.batch_rows = now, rows
                if start or stop < request.rows:
                    request.parts.append(own)
                    own = concatenate(request.parts) if stop == request.rows else own
                if stop == request.rows and (future := request.future) is not None:
                    request.tensors, request.future = {}, None  # the connection holds it until its next request
                    future.set_result(own)
            at = end

    def _retry_singly(self, batch: Batch, error: Exception) -> None:
        """Run each request of a failed batch again singly; a request that ran singly fails with the error."""
        members = [member for member in batch.members if not member[0].is_done]
        if len(members) > 1:
            self._retries += [Batch([member], member[2] - member[1]) for member in members]
            return
        for request, _, _ in members:
            self._fail_request(request, error)

    def _fail_request(self, request: QueuedRequest, error: Exception) -> None:
        """Fail a request that waits or runs; nothing for one that has an outcome."""
        future, request.future = request.future, None
        if future is None or future.done():
            return
        self._queue.discard(request)
        if self._running is not None and self._running.is_done:
            self._running.cancel.set()
        future.set_exception(error)

    def _expire(self, request: QueuedRequest) -> None:
        self._fail_request(request, DeadlineError())

    def _expire_overdue(self) -> None:
        """Fail the requests whose deadline has passed, and schedule the next deadline."""
        now = perf_counter()
        deadlines = []
        for request in [*self._open_requests()]:
            if request.deadline <= now:
                self._expire(request)
            elif not request.is_done:
                deadlines.append(request.deadline)
        if deadlines:
            self._deadlines.schedule(min(deadlines), self._require_loop())

    def _open_requests(self) -> Iterator[QueuedRequest]:
        """Yield the requests that wait, run or will be retried."""
        yield from self._queue
        for batch in (*([self._running] if self._running else ()), *self._retries):
            yield from (request for request, _, _ in batch.members)
