"""The infer route, as a bare ASGI application: the framework's own request machinery would cost more than a network.

    headers ─▶ model ─▶ room in the queue? ─▶ body ─▶ tensors ─▶ batcher ─▶ answer

What it answers, and what it refuses, is in the OpenAPI document through `service.routes.infer`. A small request takes
`service.inference.fast_path` instead, as a rule.
"""

from __future__ import annotations

from contextlib import suppress
from time import perf_counter

from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from normfold.contract.errors import NormfoldError
from normfold.service.batching.thread_pool import INLINE_BYTES, ThreadPool
from normfold.service.codec.request import parse_object, read_id
from normfold.service.codec.response import InferResponse, encode_response
from normfold.service.errors import InvalidRequestError
from normfold.service.http.body import Headers, compress, decompress, drain, read_body
from normfold.service.http.connection import (
    CONNECTION,
    LARGEST_JOINED,
    Connection,
    body_at_hand,
    chunks,
    waits_for_continue,
    write_response,
)
from normfold.service.inference.large_responses import LargeResponses
from normfold.service.inference.steps import (
    ModelRef,
    admit,
    answer_fields,
    chosen_encoding,
    decode,
    match,
    read_front,
    refusal,
)
from normfold.service.observability.request_trace import RequestTrace
from normfold.service.repository.repository import Repository
from normfold.service.settings import Settings


class InferRoute:
    """Answers POST /v2/models/{model}[/versions/{version}]/infer."""

    def __init__(self, repository: Repository, workers: ThreadPool, settings: Settings, large: LargeResponses) -> None:
        self._repository, self._workers, self._limit = repository, workers, settings.max_body_bytes
        self._large = large

    @staticmethod
    def match(scope: Scope) -> ModelRef | None:
        """Return the model and version of a request that is this route's."""
        return match(scope["path"]) if scope["method"] == "POST" else None

    async def __call__(
        self, scope: Scope, receive: Receive, send: Send, headers: Headers, phases: RequestTrace, named: ModelRef
    ) -> None:
        """Answer one request for a model and version."""
        read, model, held = False, None, 0
        try:
            model = admit(self._repository, named, headers, self._limit, phases)
            model.in_use += 1
            front = read_front(headers)
            read = True
            at_hand = body_at_hand(scope) if front is None else None
            if at_hand is not None and len(at_hand) <= self._limit:
                body = memoryview(at_hand)
            else:
                body = await read_body(scope, receive, self._limit, front or 0)
            phases.received = perf_counter()
            if b"content-encoding" in headers:
                encoding = headers[b"content-encoding"]
                body = await self._workers.parse(4 * len(body), decompress, body, encoding, self._limit)
            if len(body) <= INLINE_BYTES or (
                front is not None and front <= INLINE_BYTES and not model.signature.has_text
            ):
                request = decode(body, front, model, phases)  # numbers behind the JSON stay where they are
            else:
                request = await self._workers.call(decode, body, front, model, phases)
            phases.decoded = perf_counter()
            phases.queued_request = job = model.make_request(
                request.tensors, request.names, request.timeout_s, request.urgent
            )
            results = await model.submit(job, scope.get(CONNECTION))
            if sum([array.nbytes for array in results.values()]) <= INLINE_BYTES:
                answer = encode_response(model.manifest, request.outputs, results, phases.identity)
            else:
                answer, held = await self._large.encode(model, request, results, phases.identity)
            job.future, results = None, {}  # who reads JSON slowly does not hold the tensors too
        except NormfoldError as error:
            if not read:
                phases.identity = await _find_identity(scope, receive, headers)
            await _refuse(scope, send, receive, error, phases)
            return
        finally:
            if model is not None:
                model.in_use -= 1
        try:
            await self._send(scope, send, answer, headers, phases)
        finally:
            self._large.give_back(held)

    async def _send(
        self, scope: Scope, send: Send, answer: InferResponse, headers: Headers, phases: RequestTrace
    ) -> None:
        fields, pieces, size = answer_fields(answer, phases), answer.pieces, answer.size
        if encoding := chosen_encoding(headers, size):
            body = await self._workers.parse(size, compress, pieces, encoding)
            fields += ((b"content-encoding", encoding), (b"vary", b"accept-encoding"))
            pieces, size = (body,), len(body)
        fields.append((b"content-length", b"%d" % size))
        if size <= LARGEST_JOINED and write_response(scope, 200, fields, pieces):
            return
        await send({"type": "http.response.start", "status": 200, "headers": fields})
        connection: Connection | None = scope.get(CONNECTION)
        for chunk in chunks(pieces):
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
            if connection is not None and connection.is_lost:
                raise ClientDisconnect
        await send({"type": "http.response.body"})


async def _find_identity(scope: Scope, receive: Receive, headers: Headers) -> str | None:
    """Return the id in the body of a request that is refused before it is read; a long body is left alone."""
    declared = headers.get(b"content-length", b"")
    if not declared.isdigit() or not 0 < int(declared[:20]) <= INLINE_BYTES or b"content-encoding" in headers:
        return None
    with suppress(InvalidRequestError):
        body = await read_body(scope, receive, INLINE_BYTES)
        return read_id(parse_object(body[: read_front(headers)]))
    return None


async def _refuse(scope: Scope, send: Send, receive: Receive, error: NormfoldError, phases: RequestTrace) -> None:
    status, fields, body = refusal(error, phases)
    if waits_for_continue(scope):  # whether it sends its body now, nobody knows
        fields.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": fields})
    if status == 413:
        await send({"type": "http.response.body", "body": body, "more_body": True})
        await drain(receive)
        body = b""
    await send({"type": "http.response.body", "body": body})
