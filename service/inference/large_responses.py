"""Large responses: encoded in a thread, within a byte budget that all of them share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from normfold.service.batching.thread_pool import ThreadPool
from normfold.service.codec.response import InferResponse
from normfold.service.errors import ResponseBudgetError, ResponseTooLargeError
from normfold.service.inference.byte_budget import ByteBudget
from normfold.service.runtime.malloc import trim


class LargeResponses:
    """Encodes large responses, and returns their memory to the system after many of them.

    Args:
        thread_pool: encodes.
        max_response_bytes: limit on all responses that are being encoded or sent.
    """

    def __init__(self, thread_pool: ThreadPool, max_response_bytes: int) -> None:
        self._thread_pool, self._budget = thread_pool, ByteBudget(max_response_bytes)
        self._trimming: asyncio.Task[None] | None = None

    async def encode(self, encode: Callable[[], InferResponse], nbytes: int) -> tuple[InferResponse, int]:
        """Encode results in a thread.

        Args:
            encode: called there.
            nbytes: of the results, which are held until they are encoded.

        Returns:
            The response, and the bytes that it holds of the budget until they are given to `release`.

        Raises:
            ResponseTooLargeError: the response alone is over the limit.
            ResponseBudgetError: it is over the limit together with the others.
            UnwritableOutputError: an output has values that the protocol cannot carry.
        """
        self._reserve(nbytes)
        try:
            response = await self._thread_pool.call(encode)
            self._reserve(response.size, nbytes)
        except BaseException:
            self.release(nbytes)
            raise
        return response, response.size

    def release(self, held: int) -> None:
        """Release the bytes of a response that its client has read, or that is not sent."""
        if self._budget.release(held):
            self._trimming = asyncio.create_task(self._thread_pool.call(trim))

    def _reserve(self, nbytes: int, held: int = 0) -> None:
        if nbytes > self._budget.max_bytes:
            raise ResponseTooLargeError(nbytes, self._budget.max_bytes)
        if not self._budget.reserve(nbytes, held):
            raise ResponseBudgetError
