"""Large responses: encoded in a thread, within a byte budget that all of them share."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from normfold.service.batching.thread_pool import ThreadPool
from normfold.service.codec.json_tensors import Array
from normfold.service.codec.request import InferRequest
from normfold.service.codec.response import InferResponse, encode_response
from normfold.service.errors import ResponseBudgetError, ResponseTooLargeError
from normfold.service.inference.byte_budget import ByteBudget
from normfold.service.repository.loaded_model import Model
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

    async def encode(
        self, model: Model, request: InferRequest, results: Mapping[str, Array], client_request_id: str | None
    ) -> tuple[InferResponse, int]:
        """Encode results in a thread.

        Returns:
            The response, and the bytes that it holds of the budget until they are given to `release`.

        Raises:
            ResponseTooLargeError: the response alone is over the limit.
            ResponseBudgetError: it is over the limit together with the others.
            UnwritableOutputError: an output that is to be JSON holds NaN or Infinity.
        """
        held = sum(array.nbytes for array in results.values())
        self._reserve(held)
        try:
            response = await self._thread_pool.call(
                encode_response, model.manifest, request.outputs, results, client_request_id
            )
            self._reserve(response.size, held)
        except BaseException:
            self.release(held)
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
