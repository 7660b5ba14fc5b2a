"""The fast path of small infer requests, past ASGI: no task, no messages, nothing awaited.

    whole request in memory ─▶ decode ─▶ enqueue ┄┄▶ encode ─▶ response written at once

ASGI's task, scope and messages cost as much per request as all steps together. So the HTTP protocol calls
`FastPath.start` when a whole request has arrived, and the batcher calls back with the results.
"""

from __future__ import annotations

import asyncio
from time import perf_counter

from normfold.service.batching.batch import CallbackFuture, Results
from normfold.service.batching.thread_pool import INLINE_BYTES
from normfold.service.codec.headers import Headers
from normfold.service.error_responses import log_fault
from normfold.service.inference.infer_call import InferCall, InferResources
from normfold.service.inference.model_ref import ModelRef, match_infer_url
from normfold.service.inference.response import Response, are_large
from normfold.service.inference.steps import RequestSteps, enter_log_context, leave_log_context
from normfold.service.inference.transport import ResponseWriter
from normfold.service.proxy.forwarding import Forwarding

_ASGI_HEADERS = frozenset({b"content-encoding", b"transfer-encoding", b"expect", b"upgrade"})
"""Requests with one of these headers go through ASGI."""

_MAX_URL_BYTES = 256


class FastPath:
    """Serves infer requests whose whole body has arrived and is small.

    Args:
        steps: those of every request.
        resources: shared by all infer requests.
        through_asgi: further headers whose requests go through ASGI.
        forwarding: reads prefixes of paths and headers of proxies; None if there are none.
    """

    def __init__(
        self,
        steps: RequestSteps,
        resources: InferResources,
        through_asgi: frozenset[bytes] = frozenset(),
        forwarding: Forwarding | None = None,
    ) -> None:
        self.steps, self.resources, self._forwarding = steps, resources, forwarding
        self._asgi_headers = _ASGI_HEADERS | through_asgi
        self._max_body_bytes = min(INLINE_BYTES, resources.max_body_bytes)
        self.tasks: set[asyncio.Task[None]] = set()

    def match(self, url: bytes, headers: Headers, peer: str) -> ModelRef | None:
        """Return the model that a POST request from a peer names; None if the request must go through ASGI."""
        if self._forwarding is not None:
            url = self._forwarding.strip_url(url, headers, peer)
        if len(url) > _MAX_URL_BYTES or b"host" not in headers or not self._asgi_headers.isdisjoint(headers):
            return None
        length = headers.get(b"content-length", b"0")
        if len(length) > 9 or not length.isdigit() or int(length) > self._max_body_bytes:
            return None
        return match_infer_url(url)

    def start(
        self,
        url: bytes,
        headers: Headers,
        peer: str,
        body: bytes,
        reference: ModelRef,
        writer: ResponseWriter,
        started: float,
    ) -> None:
        """Decode and enqueue a request; its response is written later, or at once if it is an error.

        Args:
            url: that `match` was called with.
            headers: that `match` was called with.
            peer: that `match` was called with.
            body: the whole body.
            reference: as `match` returned it.
            writer: the request's connection.
            started: when the headers were complete, on the clock of perf_counter.
        """
        client = None
        if self._forwarding is not None:
            url = self._forwarding.strip_url(url, headers, peer)
            client = self._forwarding.client(headers, peer)
        trace = self.steps.begin("POST", url.decode("ascii"), headers, started)
        trace.client = client
        trace.received = perf_counter()
        _FastRequest(self, InferCall(self.resources, headers, trace), writer).start(reference, body)


class _FastRequest:
    """One request on the fast path."""

    __slots__ = ("_call", "_fast_path", "_is_ended", "_writer")

    def __init__(self, fast_path: FastPath, call: InferCall, writer: ResponseWriter) -> None:
        self._fast_path, self._call, self._writer = fast_path, call, writer
        self._is_ended = False

    def start(self, reference: ModelRef, body: bytes) -> None:
        call, is_authorized = self._call, False
        try:
            self._fast_path.steps.authorize(call.trace, call.headers)
            is_authorized = True
            call.admit(reference)
            call.decode(memoryview(body))
            call.enqueue(self._writer, CallbackFuture(self._finish))
        except Exception as error:  # noqa: BLE001 -- every error gets its response
            if is_authorized and not call.is_admitted:
                call.read_id(memoryview(body))
            self._fail(error)

    def _finish(self, outcome: Results | Exception) -> None:
        """Respond with what the batcher gives; it calls this, and nothing may be raised into it."""
        try:
            if isinstance(outcome, Exception):
                self._fail(outcome)
            elif are_large(outcome):
                task = asyncio.get_running_loop().create_task(self._finish_large(outcome))
                self._fast_path.tasks.add(task)
                task.add_done_callback(self._fast_path.tasks.discard)
            else:
                self._end(self._call.encode(outcome))
        except Exception as error:  # noqa: BLE001 -- every error gets its response
            self._fail(error)

    async def _finish_large(self, results: Results) -> None:
        try:
            response = await self._call.encode_async(results)
            results = {}  # a client that reads JSON slowly does not hold the tensors too
            await self._writer.write_chunks(*response)
            self._end(None)
        except Exception as error:  # noqa: BLE001 -- every error gets its response
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        trace = self._call.trace
        token = enter_log_context(trace)  # here alone something is logged
        try:
            if self._is_ended:  # the error came after the response
                log_fault("POST", trace.path, error)
            else:
                self._end(self._call.fail(error))
        finally:
            leave_log_context(token, trace)

    def _end(self, response: Response | None) -> None:
        """Write a response, unless it is written already, and end the request."""
        self._is_ended = True
        try:
            if response is not None:
                self._writer.write_response(*response)
        finally:
            self._call.close()
            self._fast_path.steps.end(self._call.trace)
