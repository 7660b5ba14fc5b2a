"""The threads in which the service computes, so that its event loop stays free to answer."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from time import monotonic
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
Result = TypeVar("Result")

Then = Callable[[Any, BaseException | None], None]
"""Takes what a job gave, or what it raised."""

logger = logging.getLogger(__name__)

INLINE_BYTES = 32 * 1024
"""Parsing this much takes about a millisecond; handing less than that over to a thread costs more than it saves."""

CLOSE_TIMEOUT_S = 5.0
"""How long what runs at the end may go on. Requests are over by then: it is a model that is still being loaded."""


@dataclass(slots=True)
class _Task:
    function: Callable[[], Any]
    loop: asyncio.AbstractEventLoop
    then: Then
    future: asyncio.Future[Any] | None = None


class ThreadPool:
    """A limited pool of threads for running networks, decoding pictures and parsing large bodies.

    Unlike those of the standard library's pool, the threads do not keep the process from ending: one of them may hang
    in a file system that does not answer. A process that ends while one of them is in native code may be aborted by it:
    see `ended`.
    """

    def __init__(self, threads: int) -> None:
        self._jobs: SimpleQueue[_Task | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, name=f"normfold-{number}", daemon=True) for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def ended(self) -> bool:
        """Whether all threads are gone; until then, only `os._exit` ends the process with a code of its own."""
        return not any(thread.is_alive() for thread in self._threads)

    async def call(self, function: Callable[P, Result], *args: P.args, **kwargs: P.kwargs) -> Result:
        """Call a function in a thread, within the caller's context (so that its log lines carry the request id)."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        context = contextvars.copy_context()
        self._jobs.put(_Task(partial(context.run, function, *args, **kwargs), loop, partial(_settle, future), future))
        return await future

    def start(self, function: Callable[[], Any], loop: asyncio.AbstractEventLoop, then: Then) -> None:
        """Call a function in a thread, and `then` with its outcome on the event loop; the end drops what waits."""
        self._jobs.put(_Task(function, loop, then))

    async def parse(self, size_bytes: int, function: Callable[P, Result], *args: P.args, **kwargs: P.kwargs) -> Result:
        """Call a function at once if it works on few bytes, and otherwise in a thread."""
        if size_bytes <= INLINE_BYTES:
            return function(*args, **kwargs)
        return await self.call(function, *args, **kwargs)

    def close(self) -> None:
        """Let what runs finish within CLOSE_TIMEOUT_S, drop what waits, and end the threads."""
        while not self._jobs.empty():
            if (job := self._jobs.get()) is not None and job.future is not None:
                _tell(job.loop, job.future.cancel)
        for _ in self._threads:
            self._jobs.put(None)
        deadline = monotonic() + CLOSE_TIMEOUT_S
        for thread in self._threads:
            thread.join(max(0.0, deadline - monotonic()))
        if not self.ended:
            logger.warning("What still runs is left behind: it did not end within %g s.", CLOSE_TIMEOUT_S)

    def _work(self) -> None:
        while self._work_once():
            pass

    def _work_once(self) -> bool:
        """Do one job; nothing of it outlives this call, so that an idle thread holds no tensors."""
        job = self._jobs.get()
        if job is None:
            return False
        if job.future is None or not job.future.cancelled():
            try:
                _tell(job.loop, job.then, job.function(), None)
            except BaseException as error:  # noqa: BLE001 - the caller gets it
                _tell(job.loop, job.then, None, error)
        return True


def _tell(loop: asyncio.AbstractEventLoop, function: Callable[..., object], *args: Any) -> None:
    """Call a function on an event loop, if that has not ended."""
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(function, *args)


def _settle(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if future.done():  # its caller has left
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
