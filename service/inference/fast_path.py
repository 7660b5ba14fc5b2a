"""The short way of a small infer request: no task, no messages, nothing awaited.

    bytes that came whole ─▶ decode ─▶ queue ┄┄▶ encode ─▶ bytes

What ASGI does for a request, its task, its scope, its messages, takes as long as all our own work on it. Here the
connection calls `take` when a whole request lies before it, and the queue calls back when there is an answer. What is
refused, counted and logged is as on the long way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from contextvars import Token
from functools import lru_cache
from time import perf_counter
from typing import Protocol

from starlette.requests import ClientDisconnect

from normfold.contract.errors import NormfoldError
from normfold.service.auth.authorization import Authorizer
from normfold.service.batching.batch import CallbackFuture, Results
from normfold.service.batching.thread_pool import INLINE_BYTES, ThreadPool
from normfold.service.codec.binary_tensors import Piece
from normfold.service.codec.request import InferRequest, parse_object, read_id
from normfold.service.codec.response import encode_response
from normfold.service.error_responses import describe_fault, error_body, log_fault
from normfold.service.errors import InvalidRequestError
from normfold.service.http.body import Headers, compress
from normfold.service.http.connection import Connection
from normfold.service.inference.large_responses import LargeResponses
from normfold.service.inference.steps import (
    JSON_TYPE,
    Fields,
    ModelRef,
    admit,
    answer_fields,
    chosen_encoding,
    decode,
    match,
    read_front,
    refusal,
)
from normfold.service.logs import REQUEST_ID, TRACE_ID
from normfold.service.observability.request_trace import CLIENT_DISCONNECTED, RequestTrace
from normfold.service.observability.telemetry import Telemetry
from normfold.service.observability.trace_context import read_trace_id
from normfold.service.repository.loaded_model import Model
from normfold.service.repository.repository import Repository
from normfold.service.settings import Settings

_THROUGH_ASGI = frozenset({b"content-encoding", b"transfer-encoding", b"expect", b"upgrade"})
"""Headers whose requests the long way knows what to do with."""

_LONGEST_URL = 256


class Client(Connection, Protocol):
    """The connection that a request came on."""

    def answer(self, status: int, fields: Fields, pieces: Sequence[Piece]) -> None:
        """Write a whole answer; nothing is written to a client that has left."""

    async def answer_slowly(self, status: int, fields: Fields, pieces: Sequence[Piece]) -> None:
        """Write a large answer as the client reads it.

        Raises:
            ClientDisconnect: it left.
        """


class FastPath:
    """Takes infer requests with small bodies.

    Args:
        repository: has the models.
        telemetry: counts.
        workers: where large answers are encoded.
        settings: limits.
        large: encodes large answers.
        doors: who may pass; None if anyone may.
    """

    def __init__(
        self,
        repository: Repository,
        telemetry: Telemetry,
        workers: ThreadPool,
        settings: Settings,
        large: LargeResponses,
        doors: Authorizer | None = None,
    ) -> None:
        self.repository, self.telemetry, self.workers, self.doors = repository, telemetry, workers, doors
        self.limit, self.large = settings.max_body_bytes, large
        self._through_asgi = _THROUGH_ASGI | {b"origin"} if settings.cors_origins else _THROUGH_ASGI
        self._largest = min(INLINE_BYTES, self.limit)
        self._encoding: set[asyncio.Task[None]] = set()

    def match(self, url: bytes, headers: Headers) -> ModelRef | None:
        """Return whom a POST request may ask this way; None if it must take the long one."""
        if len(url) > _LONGEST_URL or b"host" not in headers or not self._through_asgi.isdisjoint(headers):
            return None
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or len(length) > 9 or int(length) > self._largest:
            return None
        return _match(url)

    def take(self, url: bytes, headers: Headers, body: bytes, named: ModelRef, client: Client, began: float) -> None:
        """Decode a request and queue it; it is answered through its client, at once if it is refused.

        Args:
            url: as `match` has seen it.
            headers: likewise.
            body: all of it.
            named: what `match` said.
            client: to answer.
            began: when the headers had come, by perf_counter.
        """
        phases = RequestTrace(self.telemetry.request_id(headers), path=url.decode("ascii"), started=began)
        if b"traceparent" in headers:
            phases.trace_id = read_trace_id(headers[b"traceparent"])
        self.telemetry.in_flight += 1
        _FastRequest(self, headers, phases, client).begin(named, body)

    def encode_later(self, exchange: _FastRequest, results: Results) -> None:
        """Encode a large answer in a thread."""
        task = asyncio.get_running_loop().create_task(exchange.finish_later(results))
        self._encoding.add(task)
        task.add_done_callback(self._encoding.discard)


class _FastRequest:
    """One request on its way."""

    __slots__ = ("_client", "_ended", "_headers", "_model", "_phases", "_request", "_way")

    def __init__(self, way: FastPath, headers: Headers, phases: RequestTrace, client: Client) -> None:
        self._way, self._headers, self._phases, self._client = way, headers, phases, client
        self._model: Model | None = None
        self._request: InferRequest | None = None
        self._ended = False

    def begin(self, named: ModelRef, body: bytes) -> None:
        way, headers, phases = self._way, self._headers, self._phases
        phases.received = perf_counter()
        token = _enter(phases)
        read = False
        try:
            if way.doors is not None and (refused := way.doors.check(phases.path, headers, phases)) is not None:
                self._refuse(refused)
                return
            model = admit(way.repository, named, headers, way.limit, phases)
            self._model = model
            model.in_use += 1
            front = read_front(headers)
            read = True
            self._request = request = decode(memoryview(body), front, model, phases)
            phases.decoded = perf_counter()
            phases.queued_request = job = model.make_request(
                request.tensors, request.names, request.timeout_s, request.urgent
            )
            job.future = CallbackFuture(self.finish)
            model.enqueue(job, self._client)
        except Exception as error:  # noqa: BLE001 -- whatever it is, it is answered
            if not read:
                with suppress(InvalidRequestError):
                    phases.identity = read_id(parse_object(body[: read_front(headers)]))
            self._refuse(error)
        finally:
            _leave(token, self._phases)

    def finish(self, outcome: Results | Exception) -> None:
        """Answer with what the queue gave; it calls this, and nothing may be raised into it."""
        token = _enter(self._phases)
        try:
            if isinstance(outcome, Exception):
                self._refuse(outcome)
            elif sum([array.nbytes for array in outcome.values()]) > INLINE_BYTES:
                self._way.encode_later(self, outcome)
            else:
                self._answer(outcome)
        except Exception as error:  # noqa: BLE001 -- whatever it is, it is answered
            self._refuse(error)
        finally:
            _leave(token, self._phases)

    async def finish_later(self, results: Results) -> None:
        """Answer with large results, encoded in a thread and written as the client reads."""
        token, held = _enter(self._phases), 0
        try:
            assert self._model is not None  # it gave the results
            assert self._request is not None
            large, identity = self._way.large, self._phases.identity
            answer, held = await large.encode(self._model, self._request, results, identity)
            results = {}  # who reads JSON slowly does not hold the tensors too
            fields, pieces = answer_fields(answer, self._phases), answer.pieces
            if encoding := chosen_encoding(self._headers, answer.size):
                pieces = (await self._way.workers.call(compress, pieces, encoding),)
                fields += ((b"content-encoding", encoding), (b"vary", b"accept-encoding"))
            fields.append((b"content-length", b"%d" % sum(map(len, pieces))))
            await self._client.answer_slowly(200, fields, pieces)
            self._close()
        except ClientDisconnect:
            self._phases.status = CLIENT_DISCONNECTED
            self._close()
        except Exception as error:  # noqa: BLE001 -- whatever it is, it is answered
            self._refuse(error)
        finally:
            self._way.large.give_back(held)
            _leave(token, self._phases)

    def _answer(self, results: Results) -> None:
        assert self._model is not None  # it gave the results
        assert self._request is not None
        answer = encode_response(self._model.manifest, self._request.outputs, results, self._phases.identity)
        fields, pieces, size = answer_fields(answer, self._phases), answer.pieces, answer.size
        if encoding := chosen_encoding(self._headers, size):
            body = compress(pieces, encoding)
            fields += ((b"content-encoding", encoding), (b"vary", b"accept-encoding"))
            pieces, size = (body,), len(body)
        fields.append((b"content-length", b"%d" % size))
        self._end(200, fields, pieces)

    def _refuse(self, error: Exception) -> None:
        phases = self._phases
        if self._ended:  # it is answered; what failed came behind that
            log_fault(phases.method, phases.path, error)
            return
        if isinstance(error, NormfoldError):
            with suppress(NormfoldError):  # no answer is foreseen: it is a fault of ours
                status, fields, body = refusal(error, phases)
                self._end(status, fields, (body,))
                return
        log_fault(phases.method, phases.path, error)
        phases.status, body = 500, error_body(describe_fault(phases.identity))
        fields = [JSON_TYPE, (b"x-request-id", phases.request_id.encode()), (b"content-length", b"%d" % len(body))]
        self._end(500, fields, (body,))

    def _end(self, status: int, fields: Fields, pieces: Sequence[Piece]) -> None:
        self._ended = True
        self._client.answer(status, fields, pieces)
        self._close()

    def _close(self) -> None:
        """Count the request, and let go of its model."""
        self._ended = True
        if self._model is not None:
            self._model.in_use -= 1
            self._model = None
        self._way.telemetry.in_flight -= 1
        self._way.telemetry.record(self._phases)


def _enter(phases: RequestTrace) -> Token[str | None]:
    """Let what is logged from here on carry a request's ids."""
    if phases.trace_id is not None:
        TRACE_ID.set(phases.trace_id)
    return REQUEST_ID.set(phases.request_id)


def _leave(token: Token[str | None], phases: RequestTrace) -> None:
    REQUEST_ID.reset(token)
    if phases.trace_id is not None:
        TRACE_ID.set(None)


@lru_cache(maxsize=1024)
def _match(url: bytes) -> ModelRef | None:
    """Return whom a URL names; one with escapes or a query is the long way's."""
    return None if b"%" in url or b"?" in url or not url.isascii() else match(url.decode("ascii"))
