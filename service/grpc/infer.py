"""ModelInfer, and each message of ModelStreamInfer: decode, enqueue, encode, by the steps that HTTP has too."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import perf_counter

from normfold.service.batching.batch import CallbackFuture, Results
from normfold.service.batching.thread_pool import INLINE_BYTES
from normfold.service.codec.headers import Headers
from normfold.service.codec.response import InferResponse
from normfold.service.errors import StoppingError
from normfold.service.grpc.request import parse_request, read_request
from normfold.service.grpc.response import encode_message
from normfold.service.inference.infer_call import InferCall, InferResources
from normfold.service.inference.model_ref import ModelRef
from normfold.service.observability.request_trace import RequestTrace


class PendingRequest:
    """A request in a model's queue, and the task that waits for its results; a `RequestConnection` of the queue.

    Args:
        waiter: gets the results.
    """

    __slots__ = ("_waiter", "is_disconnected", "on_disconnect")

    def __init__(self, waiter: asyncio.Future[Results]) -> None:
        self._waiter = waiter
        self.is_disconnected = False
        self.on_disconnect: Callable[[], None] | None = None

    def finish(self, outcome: Results | Exception) -> None:
        """Take what the batcher gives, unless nobody waits any more."""
        if self._waiter.done():
            return
        if isinstance(outcome, Exception):
            self._waiter.set_exception(outcome)
        else:
            self._waiter.set_result(outcome)

    def leave(self) -> None:
        """Take the request out of its queue or batch."""
        self.is_disconnected = True
        if self.on_disconnect is not None:
            self.on_disconnect()


class Inference:
    """Answers infer requests.

    Args:
        resources: shared with HTTP.
    """

    def __init__(self, resources: InferResources) -> None:
        self._resources = resources
        self._pending: set[PendingRequest] = set()

    async def infer(
        self, data: bytes, headers: Headers, remaining_s: float | None, trace: RequestTrace
    ) -> InferResponse:
        """Answer one request.

        Args:
            data: a serialized ModelInferRequest.
            headers: of its call.
            remaining_s: seconds until the call's deadline; None if it has none.
            trace: the request's.

        Returns:
            A serialized ModelInferResponse in pieces.

        Raises:
            NormfoldError: as the steps of `InferCall`.
            CancelledError: the call was cancelled; the request has left its queue or batch.
        """
        call = InferCall(self._resources, headers, trace, encode_message)
        try:
            message, raw = parse_request(data)
            trace.received = perf_counter()
            trace.client_request_id = message.id or None
            call.admit(ModelRef(message.model_name, message.model_version or None))
            is_inline = len(data) <= INLINE_BYTES or (bool(raw) and not call.signature.has_text_input)
            if is_inline:  # raw tensors are not copied, however large
                call.accept(read_request(message, raw, call.signature, remaining_s))
            else:
                thread_pool = self._resources.thread_pool
                call.accept(await thread_pool.call(read_request, message, raw, call.signature, remaining_s))
            return await call.encode_results_async(await self._run(call))
        finally:
            call.close()

    def stop(self) -> None:
        """Answer everything that waits: the grace period of shutdown is over."""
        for pending in [*self._pending]:
            pending.finish(StoppingError())
            pending.leave()

    async def _run(self, call: InferCall) -> Results:
        waiter: asyncio.Future[Results] = asyncio.get_running_loop().create_future()
        pending = PendingRequest(waiter)
        call.enqueue(pending, CallbackFuture(pending.finish))
        self._pending.add(pending)
        try:
            return await waiter
        except asyncio.CancelledError:
            pending.leave()
            raise
        finally:
            self._pending.discard(pending)
            pending.on_disconnect = None
