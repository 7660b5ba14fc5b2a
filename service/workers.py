"""The threads in which the service computes, so that its event loop stays free to answer."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
Result = TypeVar("Result")

INLINE_BYTES = 32 * 1024
"""Parsing this much takes about a millisecond; handing less than that over to a thread costs more than it saves."""


class Workers:
    """A limited pool of threads for running networks, decoding pictures and parsing large bodies."""

    def __init__(self, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="normfold")

    async def call(self, function: Callable[P, Result], *args: P.args, **kwargs: P.kwargs) -> Result:
        """Call a function in a thread, within the caller's context (so that its log lines carry the request id)."""
        context = contextvars.copy_context()
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, lambda: context.run(function, *args, **kwargs))

    async def parse(self, size_bytes: int, function: Callable[P, Result], *args: P.args, **kwargs: P.kwargs) -> Result:
        """Call a function at once if it works on few bytes, and otherwise in a thread."""
        if size_bytes <= INLINE_BYTES:
            return function(*args, **kwargs)
        return await self.call(function, *args, **kwargs)

    def close(self) -> None:
        """Let what runs finish, drop what waits, and end the threads."""
        self._pool.shutdown(wait=True, cancel_futures=True)
