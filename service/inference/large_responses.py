"""Answers too large to be encoded on the event loop: in a thread, and within the room that all have together."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from normfold.service.batching.thread_pool import ThreadPool
from normfold.service.codec.json_tensors import Array
from normfold.service.codec.request import InferRequest
from normfold.service.codec.response import InferResponse, encode_response
from normfold.service.http.room import Room
from normfold.service.repository.loaded_model import Model
from normfold.service.runtime.malloc import trim


class LargeResponses:
    """Encodes them, and gives memory back when the last of many has been read.

    Args:
        workers: where they are encoded.
        max_response_bytes: of all that wait to be read.
    """

    def __init__(self, workers: ThreadPool, max_response_bytes: int) -> None:
        self._workers, self._room = workers, Room(max_response_bytes)
        self._trimming: asyncio.Task[None] | None = None

    async def encode(
        self, model: Model, request: InferRequest, results: Mapping[str, Array], identity: str | None
    ) -> tuple[InferResponse, int]:
        """Return an answer, and the bytes of room that it takes until `give_back` is called with them.

        Raises:
            ResponseTooLargeError, ResponseBudgetError: there is not so much room.
            UnwritableOutputError: an output that is to be JSON holds NaN or Infinity.
        """
        held = sum(array.nbytes for array in results.values())
        self._room.take(held)
        try:
            answer = await self._workers.call(encode_response, model.manifest, request.outputs, results, identity)
            self._room.take(answer.size, held)
        except BaseException:
            self._room.give_back(held)
            raise
        return answer, answer.size

    def give_back(self, held: int) -> None:
        """Give back the room of an answer that the client has read, or left."""
        if held and self._room.give_back(held):
            self._trimming = asyncio.create_task(self._workers.call(trim))
