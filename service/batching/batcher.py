"""The queue of one loaded version: requests wait here, bounded, and run together.

    submit ──▶ queue ──▶ batch ──▶ run ──▶ results cut into rows again
                │                   │
                └ deadline, client left: dropped; of a running batch the last one to go stops it

Work-conserving: whenever nothing runs, what waits is run at once, up to `max_batch_size` rows. Rows are counted, not
requests; a request of more rows is cut and put together again. Where new batch sizes are dear, a batch is padded with
rows of zeros to one that was warmed, which nobody sees. A network that is faster than handing it to a thread runs on
the event loop itself, after whatever requests came in together; any other in a thread, one batch at a time.

The event loop alone touches a Batcher. A failed batch is run again one request at a time: none suffers for another.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from time import perf_counter
from typing import Any, Protocol

import numpy as np

from normfold.contract.errors import NormfoldError
from normfold.service.batching.batch import Batch, BatchPolicy, QueuedRequest, Results, fit_together, joined
from normfold.service.batching.thread_pool import ThreadPool
from normfold.service.errors import ClientDisconnectedError, DeadlineError, QueueFullError, RunError, UnloadedError
from normfold.service.runtime.session import Array, Cancel


class Run(Protocol):
    """Runs a network once; may be called from a thread."""

    def __call__(
        self, tensors: Mapping[str, Array], outputs: Sequence[str], cancel: Cancel | None = None
    ) -> list[Array]:
        """Return the outputs."""


class Batcher:
    """The queue and its runner.

    Args:
        run: the network.
        policy: limits.
        workers: where a network runs that is not run inline.
        observe: called with rows and seconds of every run.
        refused: called whenever there is no room.
    """

    def __init__(
        self,
        run: Run,
        policy: BatchPolicy,
        workers: ThreadPool,
        observe: Callable[[int, float], None] = lambda *_: None,
        refused: Callable[[], None] = lambda: None,
    ) -> None:
        self.policy = policy
        self._run, self._workers, self._observe, self._refused = run, workers, observe, refused
        self._urgent: deque[QueuedRequest] = deque()
        self._normal: deque[QueuedRequest] = deque()
        self._queued_rows = 0
        self._running: Batch | None = None
        self._alone: deque[Batch] = deque()
        self._pump_due: asyncio.Handle | None = None
        self._deadline_timer: asyncio.TimerHandle | None = None
        self._deadline_timer_at = 0.0
        self._seconds_per_row = 0.0
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def queued_rows(self) -> int:
        """Rows that wait."""
        return self._queued_rows

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits and nothing runs."""
        return not self._queued_rows and self._running is None and not self._alone

    @property
    def retry_after_s(self) -> int:
        """Seconds after which what waits now will have run, as measured; at least 1."""
        return max(1, math.ceil(self._queued_rows * self._seconds_per_row))

    def refuse_if_full(self, rows: int = 1) -> None:
        """Refuse rows for which there is no room.

        A request of more rows than the whole queue holds is taken when nothing waits: it would never be otherwise.

        Raises:
            QueueFullError: with the time after which to try again.
        """
        if self._queued_rows and self._queued_rows + rows > self.policy.queue_capacity:
            self._refused()
            raise QueueFullError(self.policy.queue_capacity, self.retry_after_s)

    def submit(self, job: QueuedRequest) -> asyncio.Future[Results]:
        """Put a job into the queue, as `enqueue` does.

        Returns:
            Its results, by output, rows in order; or DeadlineError, RunError, InvalidRequestError.
        """
        job.future = future = asyncio.get_running_loop().create_future()
        self.enqueue(job)
        return future

    def enqueue(self, job: QueuedRequest) -> None:
        """Put a job with a future into the queue.

        Raises:
            QueueFullError: no room.
            UnloadedError: the model was unloaded.
        """
        if self._closed:
            raise UnloadedError
        self.refuse_if_full(job.weight)
        if self._loop is None:
            self._loop = asyncio.get_running_loop()  # asks the kernel for the process's number each time
        job.queued_at = perf_counter()
        (self._urgent if job.urgent else self._normal).append(job)
        self._queued_rows += job.weight
        if self._running is not None or self.policy.delay_s:
            self._schedule_deadline(job.deadline)
        self._schedule()

    def abandon(self, job: QueuedRequest) -> None:
        """Forget a job whose client left; the last member of a running batch stops it."""
        self._end(job, ClientDisconnectedError())

    def close(self, reason: NormfoldError | None = None) -> None:
        """End everything that waits or runs; the caller has let in no more."""
        self._closed = True
        for job in (*self._urgent, *self._normal, *self._jobs_running()):
            if not job.over and job.future is not None:
                job.future.set_exception(reason or UnloadedError())
        if self._running is not None:
            self._running.cancel.set()
        self._urgent.clear()
        self._normal.clear()
        self._queued_rows = 0
        if self._deadline_timer is not None:
            self._deadline_timer.cancel()

    def _require_loop(self) -> asyncio.AbstractEventLoop:
        assert self._loop is not None  # something was submitted
        return self._loop

    def _schedule(self) -> None:
        """Make sure that the queue is looked at: after the requests that came in together have been read."""
        if self._running is not None:
            return
        loop, is_full = self._require_loop(), self._queued_rows >= self.policy.max_batch_size
        if self._pump_due is not None:
            if not (is_full and self.policy.delay_s):
                return
            self._pump_due.cancel()
        wait = self.policy.delay_s and not is_full and not self._alone
        self._pump_due = loop.call_later(self.policy.delay_s, self._pump) if wait else loop.call_soon(self._pump)

    def _pump(self) -> None:
        """Run the next batch, if nothing runs."""
        self._pump_due = None
        if self._running is not None or self._closed:
            return
        while self._alone and all(job.over for job, _, _ in self._alone[0].members):
            self._alone.popleft()
        batch = self._alone.popleft() if self._alone else self._take()
        if batch is None:
            return
        self._running = batch
        if self.policy.inline:
            started = perf_counter()
            try:
                outcome: Any = self._compute(batch)
            except Exception as error:  # noqa: BLE001 -- the members get it
                outcome = error
            self._finish(batch, outcome, perf_counter() - started)
        else:
            started = perf_counter()
            self._workers.start(
                partial(self._compute, batch),
                self._require_loop(),
                partial(self._ran, batch, started),
            )
            self._schedule_deadline(min(job.deadline for job, _, _ in batch.members))

    def _take(self) -> Batch | None:
        """Return the next batch: from the front of the queue, jobs whose rows fit together, until it is full."""
        now, room = perf_counter(), self.policy.max_batch_size
        members: list[tuple[QueuedRequest, int, int]] = []
        first: QueuedRequest | None = None
        for queue in (self._urgent, self._normal):
            passed_over: list[QueuedRequest] = []
            while queue and room > 0:
                job = queue.popleft()
                if job.over:
                    self._leave(job)
                    continue
                if job.deadline <= now:
                    self._end(job, DeadlineError())
                elif first is None or fit_together(first, job):
                    first = first or job
                    start = job.taken
                    stop = min(start + room, job.weight)
                    job.taken, job.started_at = stop, job.started_at or now
                    members.append((job, start, stop))
                    room -= stop - start
                    self._queued_rows -= stop - start
                    if stop < job.weight:
                        queue.appendleft(job)
                    if job.rows is None:
                        room = 0
                else:
                    passed_over.append(job)
            queue.extendleft(reversed(passed_over))
        return Batch(members) if members else None

    def _compute(self, batch: Batch) -> Results:
        """Run a batch; in a thread unless the policy says inline."""
        batch.run_at = perf_counter()
        jobs = batch.members
        first = jobs[0][0]
        outputs = first.outputs
        if any(job.outputs != outputs for job, _, _ in jobs):
            outputs = list(dict.fromkeys(name for job, _, _ in jobs for name in job.outputs))
        padding = self.policy.padding(batch.rows) if self.policy.sizes and first.rows is not None else 0
        if len(jobs) == 1 and not padding and (first.rows is None or jobs[0][1:] == (0, first.rows)):
            tensors = first.tensors
        else:
            tensors = {
                name: np.concatenate(
                    [
                        job.tensors[name] if stop - start == job.rows else job.tensors[name][start:stop]
                        for job, start, stop in jobs
                    ]
                    + ([np.zeros((padding, *array.shape[1:]), array.dtype)] if padding else [])
                )
                for name, array in first.tensors.items()
            }
        results = self._run(tensors, outputs, None if self.policy.inline else batch.cancel)
        if first.rows is not None:
            rows = batch.rows + padding
            for name, array in zip(outputs, results, strict=True):
                if array.shape[:1] != (rows,):
                    raise RunError(f"Output {name!r} has the shape {list(array.shape)} for {rows} rows.")
            if padding:
                results = [array[:-padding] for array in results]
        return dict(zip(outputs, results, strict=True))

    def _ran(self, batch: Batch, started: float, results: Results, error: BaseException | None) -> None:
        """Take what a run in a thread gave."""
        if error is not None and not isinstance(error, Exception):
            error = RunError(repr(error))
        self._finish(batch, error or results, perf_counter() - started)

    def _finish(self, batch: Batch, outcome: Results | Exception, seconds: float) -> None:
        """Hand out what a run gave, and look at the queue again; a thread runs on meanwhile."""
        self._running = None
        rows = batch.rows
        if isinstance(outcome, Exception):
            self._fail(batch, outcome)
        else:
            self._observe(rows, seconds)
            self._seconds_per_row += 0.2 * (seconds / rows - self._seconds_per_row)
            if self._queued_rows and not self.policy.inline and not self.policy.delay_s:
                self._pump()
            self._deliver(batch, outcome, rows)
        if self._queued_rows or self._alone:
            self._schedule()

    def _deliver(self, batch: Batch, results: Results, rows: int) -> None:
        now, at, alone = perf_counter(), 0, len(batch.members) == 1
        for job, start, stop in batch.members:
            end = at + stop - start
            if not job.over:
                own = results if alone else {name: results[name][at:end] for name in job.outputs}
                job.run_at, job.ended_at, job.batch_rows = job.run_at or batch.run_at, now, rows
                if start or stop < job.weight:
                    job.parts.append(own)
                    own = joined(job.parts) if stop == job.weight else own
                if stop == job.weight and (future := job.future) is not None:
                    job.tensors, job.future = {}, None  # the connection keeps the job until its next request
                    future.set_result(own)
            at = end

    def _fail(self, batch: Batch, error: Exception) -> None:
        """Give a failure to the one it belongs to: several that ran together run again alone."""
        waiting = [(job, start, stop) for job, start, stop in batch.members if not job.over]
        if len(waiting) > 1:
            self._alone += [Batch([member]) for member in waiting]
            return
        for job, _, _ in waiting:
            self._end(job, error)

    def _end(self, job: QueuedRequest, error: Exception) -> None:
        """Give a job up, and say why once nothing of it is left here."""
        future, job.future = job.future, None
        if future is not None and not future.done():
            self._leave(job)
            future.set_exception(error)

    def _leave(self, job: QueuedRequest) -> None:
        """Account for a job that is over before it was done."""
        self._queued_rows -= job.weight - job.taken
        job.taken = job.weight
        running = self._running
        if running is not None and all(member.over for member, _, _ in running.members):
            running.cancel.set()

    def _jobs_running(self) -> list[QueuedRequest]:
        batches = ([self._running] if self._running else []) + list(self._alone)
        return [job for batch in batches for job, _, _ in batch.members]

    def _schedule_deadline(self, deadline: float) -> None:
        """Let the alarm ring at a deadline, if it is not set to ring before."""
        if self._deadline_timer is not None:
            if self._deadline_timer_at <= deadline:
                return
            self._deadline_timer.cancel()
        self._deadline_timer_at = deadline
        self._deadline_timer = self._require_loop().call_later(
            max(0.0, deadline - perf_counter()), self._expire_overdue
        )

    def _expire_overdue(self) -> None:
        """End what is late, and set the alarm for the next."""
        self._deadline_timer = None
        now = perf_counter()
        waiting = []
        for job in (*self._urgent, *self._normal, *self._jobs_running()):
            if job.deadline <= now:
                self._end(job, DeadlineError())
            elif not job.over:
                waiting.append(job.deadline)
        if waiting:
            self._schedule_deadline(min(waiting))
