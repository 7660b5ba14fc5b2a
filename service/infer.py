"""The infer route, as a bare ASGI application: the framework's own request machinery would cost more than a network.

    headers ─▶ model ─▶ room in the queue? ─▶ body ─▶ tensors ─▶ batcher ─▶ answer

What it answers, and what it refuses, is in the OpenAPI document through `service.routes.infer`.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from time import perf_counter

from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from contract.errors import NormfoldError
from service.answer import Answer, encode_answer
from service.body import (
    SMALLEST_COMPRESSED,
    Headers,
    accepted_encoding,
    check_declared,
    compress,
    decompress,
    drain,
    read_body,
)
from service.connection import (
    CONNECTION,
    LARGEST_JOINED,
    Connection,
    body_at_hand,
    chunks,
    waits_for_a_word,
    write_answer,
)
from service.engine import Model
from service.errors import WireError
from service.http_errors import describe_error
from service.jobs import Results
from service.large_json import parse_large
from service.memory import trim
from service.repository import Repository
from service.room import Room
from service.settings import Settings
from service.telemetry import Phases
from service.wire import InferRequest, decode_request, parse_object, raw_request, read_id
from service.workers import INLINE_BYTES, Workers

_START = ["", "v2", "models"]
_JSON, _BYTES = (b"content-type", b"application/json"), (b"content-type", b"application/octet-stream")
_LENGTH_HEADER = b"inference-header-content-length"


class InferRoute:
    """Answers POST /v2/models/{model}[/versions/{version}]/infer."""

    def __init__(self, repository: Repository, workers: Workers, settings: Settings) -> None:
        self._repository, self._workers, self._limit = repository, workers, settings.max_body_bytes
        self._room = Room(settings.max_answer_bytes)
        self._trimming: asyncio.Task[None] | None = None

    @staticmethod
    def match(scope: Scope) -> tuple[str, str | None] | None:
        """Return the model and version of a request that is this route's."""
        path: str = scope["path"]
        if not path.endswith("/infer") or scope["method"] != "POST":
            return None
        parts = path.split("/")
        if parts[:3] == _START and parts[3:4] != [""]:
            if len(parts) == 5:
                return parts[3], None
            if len(parts) == 7 and parts[4] == "versions" and parts[5]:
                return parts[3], parts[5]
        return None

    async def __call__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        headers: Headers,
        phases: Phases,
        name: str,
        version: str | None,
    ) -> None:
        """Answer one request for a model and version."""
        read, model, held = False, None, 0
        try:
            model = self._repository.find(name, version)
            model.in_use += 1
            phases.model, phases.version = model.name, model.version
            model.batcher.refuse_if_full()
            check_declared(headers, self._limit)
            front = _read_front(headers)
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
            if len(body) <= INLINE_BYTES or (front is not None and front <= INLINE_BYTES and not model.ports.has_text):
                request = _decode(body, front, model, phases)  # numbers behind the JSON stay where they are
            else:
                request = await self._workers.call(_decode, body, front, model, phases)
            phases.decoded = perf_counter()
            phases.job = job = model.job(request.tensors, request.names, request.timeout_s, request.urgent)
            results = await model.run(job, scope.get(CONNECTION))
            if sum([array.nbytes for array in results.values()]) <= INLINE_BYTES:
                answer = encode_answer(model.manifest, request.outputs, results, phases.identity)
            else:
                answer, held = await self._encode_large(model, request, results, phases.identity)
            job.future, results = None, {}  # who reads JSON slowly does not hold the tensors too
        except NormfoldError as error:
            if not read:
                phases.identity = await _find_identity(scope, receive, headers)
            phases.status, text, extra = describe_error(error, phases.identity)
            await _send_error(scope, send, receive, text, extra, phases)
            return
        finally:
            if model is not None:
                model.in_use -= 1
        phases.status, phases.encoded = 200, perf_counter()
        try:
            await self._send(scope, send, answer, headers, phases)
        finally:
            if held and self._room.give_back(held):
                self._trimming = asyncio.create_task(self._workers.call(trim))

    async def _encode_large(
        self, model: Model, request: InferRequest, results: Results, identity: str | None
    ) -> tuple[Answer, int]:
        """Encode an answer in a thread; return it, and the bytes of room that it takes until it is read."""
        held = sum(array.nbytes for array in results.values())
        self._room.take(held)
        try:
            answer = await self._workers.call(encode_answer, model.manifest, request.outputs, results, identity)
            self._room.take(answer.size, held)
        except BaseException:
            self._room.give_back(held)
            raise
        return answer, answer.size

    async def _send(self, scope: Scope, send: Send, answer: Answer, headers: Headers, phases: Phases) -> None:
        pieces, size = answer.pieces, answer.size
        fields = [_JSON if answer.json_bytes is None else _BYTES, (b"x-request-id", phases.request_id.encode())]
        if answer.json_bytes is not None:
            fields.append((_LENGTH_HEADER, str(answer.json_bytes).encode()))
        accepted = headers.get(b"accept-encoding")
        if accepted is not None and size >= SMALLEST_COMPRESSED and (encoding := accepted_encoding(accepted)):
            body = await self._workers.parse(size, compress, pieces, encoding)
            fields.append((b"content-encoding", encoding))
            pieces, size = (body,), len(body)
        fields.append((b"content-length", str(size).encode()))
        if size <= LARGEST_JOINED and write_answer(scope, 200, fields, pieces):
            return
        await send({"type": "http.response.start", "status": 200, "headers": fields})
        connection: Connection | None = scope.get(CONNECTION)
        for chunk in chunks(pieces):
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
            if connection is not None and connection.is_lost:
                raise ClientDisconnect
        await send({"type": "http.response.body"})


def _decode(body: memoryview, front: int | None, model: Model, phases: Phases) -> InferRequest:
    """Return the request, and note the id that it carries."""
    if front == 0:
        return raw_request(body, model.ports)
    head, raw = body, None
    if front is not None:
        if front > len(body):
            raise WireError(f"The JSON should have {front} bytes; the body has {len(body)}.")
        head, raw = body[:front], body[front:]
    record = (parse_large(head) if len(head) > INLINE_BYTES else None) or parse_object(head)
    phases.identity = read_id(record)
    return decode_request(record, model.ports, raw)


async def _find_identity(scope: Scope, receive: Receive, headers: Headers) -> str | None:
    """Return the id in the body of a request that is refused before it is read; a long body is left alone."""
    declared = headers.get(b"content-length", b"")
    if not declared.isdigit() or not 0 < int(declared[:20]) <= INLINE_BYTES or b"content-encoding" in headers:
        return None
    with suppress(WireError):
        body = await read_body(scope, receive, INLINE_BYTES)
        return read_id(parse_object(body[: _read_front(headers)]))
    return None


def _read_front(headers: Headers) -> int | None:
    """Return the length of the JSON in front of the tensors; None if all is JSON."""
    text = headers.get(_LENGTH_HEADER)
    if text is None:
        return None
    if not text.isdigit() or len(text) > 18:
        raise WireError(f"The header Inference-Header-Content-Length is {text.decode('latin-1')!r}, not a length.")
    return int(text)


async def _send_error(
    scope: Scope, send: Send, receive: Receive, body: bytes, extra: list[tuple[bytes, bytes]], phases: Phases
) -> None:
    status = phases.status
    if waits_for_a_word(scope):  # whether it sends its body now, nobody knows
        extra = [*extra, (b"connection", b"close")]
    fields = [
        _JSON,
        (b"x-request-id", phases.request_id.encode()),
        (b"content-length", str(len(body)).encode()),
        *extra,
    ]
    await send({"type": "http.response.start", "status": status, "headers": fields})
    if status == 413:
        await send({"type": "http.response.body", "body": body, "more_body": True})
        await drain(receive)
        body = b""
    await send({"type": "http.response.body", "body": body})
