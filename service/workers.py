"""The threads in which the service computes, so that its event loop stays free to answer."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from queue import SimpleQueue
from time import monotonic
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
Result = TypeVar("Result")

logger = logging.getLogger(__name__)

INLINE_BYTES = 32 * 1024
"""Parsing this much takes about a millisecond; handing less than that over to a thread costs more than it saves."""

CLOSE_TIMEOUT_S = 5.0
"""How long what runs at the end may go on. Requests are over by then: it is a model that is still being loaded."""


class Workers:
    """A limited pool of threads for running networks, decoding pictures and parsing large bodies.

    Unlike those of the standard library's pool, the threads do not keep the process from ending: one of them may hang
    in a file system that does not answer. A process that ends while one of them is in native code may be aborted by it:
    see `ended`.
    """

    def __init__(self, threads: int) -> None:
        self._jobs: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
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
        future: Future[Result] = Future()
        self._jobs.put((future, partial(contextvars.copy_context().run, function, *args, **kwargs)))
        return await asyncio.wrap_future(future)

    async def parse(self, size_bytes: int, function: Callable[P, Result], *args: P.args, **kwargs: P.kwargs) -> Result:
        """Call a function at once if it works on few bytes, and otherwise in a thread."""
        if size_bytes <= INLINE_BYTES:
            return function(*args, **kwargs)
        return await self.call(function, *args, **kwargs)

    def close(self) -> None:
        """Let what runs finish within CLOSE_TIMEOUT_S, drop what waits, and end the threads."""
        while not self._jobs.empty():
            if (job := self._jobs.get()) is not None:
                job[0].cancel()
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
        future, function = job
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(function())
            except BaseException as error:  # noqa: BLE001 - the caller gets it
                future.set_exception(error)
        return True
