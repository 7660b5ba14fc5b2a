"""The threads that run networks, decode images and parse large bodies, so that the event loop stays free."""

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

OnDone = Callable[[Any, BaseException | None], None]
"""Takes the result of a task, or the exception that it raised."""

logger = logging.getLogger(__name__)

INLINE_BYTES = 32 * 1024
"""Parsing this much takes about a millisecond; waking a thread for less costs more than it saves."""

CLOSE_TIMEOUT_S = 5.0
"""Seconds that running tasks get at shutdown. No request runs by then; a model may still be loading."""


@dataclass(slots=True)
class _Task:
    function: Callable[[], Any]
    loop: asyncio.AbstractEventLoop
    on_done: OnDone
    future: asyncio.Future[Any] | None = None


class ThreadPool:
    """A fixed number of daemon threads and their queue of tasks.

    Unlike the threads of concurrent.futures, these do not keep the process from ending: one may hang in a file system
    that does not answer. A process that exits while one of them is in native code may be aborted by it: see `ended`.
    """

    def __init__(self, threads: int) -> None:
        self._tasks: SimpleQueue[_Task | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, name=f"normfold-{number}", daemon=True) for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def ended(self) -> bool:
        """Whether all threads have ended; until then only `os._exit` surely ends the process with its own exit code."""
        return not any(thread.is_alive() for thread in self._threads)

    async def call(self, function: Callable[P, Result], *args: P.args, **kwargs: P.kwargs) -> Result:
        """Call a function in a thread, in the caller's context, so that its log lines carry the request id."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        context = contextvars.copy_context()
        self._tasks.put(_Task(partial(context.run, function, *args, **kwargs), loop, partial(_settle, future), future))
        return await future

    def start(self, function: Callable[[], Any], loop: asyncio.AbstractEventLoop, on_done: OnDone) -> None:
        """Call a function in a thread, and `on_done` with its outcome on the event loop; `close` drops what waits."""
        self._tasks.put(_Task(function, loop, on_done))

    async def parse(self, size_bytes: int, function: Callable[P, Result], *args: P.args, **kwargs: P.kwargs) -> Result:
        """Call a function that works on so many bytes: at once up to INLINE_BYTES, otherwise in a thread."""
        if size_bytes <= INLINE_BYTES:
            return function(*args, **kwargs)
        return await self.call(function, *args, **kwargs)

    def close(self) -> None:
        """Drop the tasks that wait, give those that run CLOSE_TIMEOUT_S to finish, and end the threads."""
        while not self._tasks.empty():
            if (task := self._tasks.get()) is not None and task.future is not None:
                _call_on_loop(task.loop, task.future.cancel)
        for _ in self._threads:
            self._tasks.put(None)
        deadline = monotonic() + CLOSE_TIMEOUT_S
        for thread in self._threads:
            thread.join(max(0.0, deadline - monotonic()))
        if not self.ended:
            logger.warning("A thread still runs after %g s and is abandoned.", CLOSE_TIMEOUT_S)

    def _work(self) -> None:
        while self._work_once():
            pass

    def _work_once(self) -> bool:
        """Run one task; no reference to it outlives this call, so that an idle thread holds no tensors."""
        task = self._tasks.get()
        if task is None:
            return False
        if task.future is None or not task.future.cancelled():
            try:
                _call_on_loop(task.loop, task.on_done, task.function(), None)
            except BaseException as error:  # noqa: BLE001 - the caller gets it
                _call_on_loop(task.loop, task.on_done, None, error)
        return True


def _call_on_loop(loop: asyncio.AbstractEventLoop, function: Callable[..., object], *args: Any) -> None:
    """Call a function on an event loop; nothing if the loop is closed."""
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(function, *args)


def _settle(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if future.done():  # its caller was cancelled
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
