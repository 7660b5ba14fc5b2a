"""ModelStreamInfer: requests in a stream, answers in the order in which they are complete, each with its request's id.

    request ─▶ task: infer ─▶ ModelStreamInferResponse{infer_response}
                          └─▶ ModelStreamInferResponse{error_message, infer_response{id}}

An error ends its own request only, but for a missing key or scope, which ends the stream.

Source: github.com/triton-inference-server/common, protobuf/grpc_service.proto.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import grpc
from grpc.aio import ServicerContext as Context

from normfold.service.errors import StoppingError
from normfold.service.grpc.call_steps import CallMetadata, CallSteps
from normfold.service.grpc.infer import Inference
from normfold.service.grpc.protocol.fields import field_head
from normfold.service.grpc.protocol.inference_pb2 import (
    InferParameter,
    ModelInferRequest,
    ModelInferResponse,
    ModelStreamInferResponse,
)
from normfold.service.grpc.status import CallStatus, to_status
from normfold.service.inference.response import Response
from normfold.service.observability.request_trace import RequestTrace

MAX_IN_FLIGHT = 256
"""Requests of one stream that are answered at once; further ones are read when one of them is answered."""

_INFER_RESPONSE = ModelStreamInferResponse.INFER_RESPONSE_FIELD_NUMBER
_PARAMETERS = ModelInferResponse.PARAMETERS_FIELD_NUMBER

_FINAL = ModelInferResponse(parameters={"triton_final_response": InferParameter(bool_param=True)}).SerializeToString()
"""Marks the last answer to a request, which the only one is, for clients that ask for empty final responses."""

_ENDING = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
_STOPPING = CallStatus(grpc.StatusCode.UNAVAILABLE, str(StoppingError()), ())


class InferStream:
    """One call of ModelStreamInfer.

    Args:
        steps: of each request.
        inference: answers them.
        metadata: of the call.
        context: of the call.
        remaining_s: returns the seconds until its deadline; None if it has none.
    """

    def __init__(
        self,
        steps: CallSteps,
        inference: Inference,
        metadata: CallMetadata,
        context: Context,
        remaining_s: Callable[[], float | None],
    ) -> None:
        self._steps, self._inference, self._metadata = steps, inference, metadata
        self._context, self._remaining_s = context, remaining_s
        self._tasks: set[asyncio.Task[None]] = set()
        self._write_lock = asyncio.Lock()
        self._ended: asyncio.Future[CallStatus] = asyncio.get_running_loop().create_future()

    async def serve(self) -> CallStatus | None:
        """Serve until the client ends the stream; return the status of a stream that the service ends.

        Raises:
            CancelledError: the client has cancelled the call.
        """
        try:
            while (data := await self._read()) is not None:
                task = asyncio.create_task(self._answer(data))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
                if len(self._tasks) >= MAX_IN_FLIGHT:
                    await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
            if self._tasks:
                await asyncio.wait(self._tasks)
            return self._ended.result() if self._ended.done() else None
        finally:
            for task in self._tasks:
                task.cancel()

    def stop(self) -> None:
        """Read no more requests; those in flight are answered."""
        self._end(_STOPPING)

    def _end(self, status: CallStatus) -> None:
        if not self._ended.done():
            self._ended.set_result(status)

    async def _read(self) -> bytes | None:
        """Return the next request; None at the end of the stream, or if the service ends it."""
        read = asyncio.ensure_future(self._context.read())
        try:
            await asyncio.wait((read, self._ended), return_when=asyncio.FIRST_COMPLETED)
            if self._ended.done():
                return None
            data = read.result()
            return None if data is grpc.aio.EOF else bytes(data)
        finally:
            if not read.done():
                read.cancel()

    async def _answer(self, data: bytes) -> None:
        trace, response = await self._steps.serve(self._metadata, data, self._remaining_s, partial(self._infer, data))
        if isinstance(response, Response):
            status = to_status(response)
            if status.code in _ENDING:
                self._end(status)
                return
            failed = ModelInferResponse(id=trace.client_request_id or "")
            error = ModelStreamInferResponse(error_message=status.text, infer_response=failed)
            response = error.SerializeToString()
        async with self._write_lock:
            with suppress(grpc.aio.UsageError, asyncio.InvalidStateError):  # the client has ended the call meanwhile
                await self._context.write(response)

    async def _infer(self, data: bytes, trace: RequestTrace) -> bytes:
        encoded = await self._inference.infer(data, self._metadata.headers, self._remaining_s(), trace)
        final = _FINAL if b"triton_enable_empty_final_response" in data[:4096] and _asks_for_final(data) else b""
        return b"".join((field_head(_INFER_RESPONSE, len(final) + encoded.size), final, *encoded.pieces))


def _asks_for_final(data: bytes) -> bool:
    return ModelInferRequest.FromString(data).parameters["triton_enable_empty_final_response"].bool_param
