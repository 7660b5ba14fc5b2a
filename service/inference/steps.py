"""The steps of an infer request, from its headers to its answer, knowing neither connections nor the event loop.

    admit ─▶ decode ─▶ (the model's queue) ─▶ encode ─▶ fields and pieces of the answer

Both ways a request can go use them: `service.inference.asgi`, which any request may take, and
`service.inference.fast_path`.
"""

from __future__ import annotations

from time import perf_counter
from typing import NamedTuple

from normfold.contract.errors import NormfoldError
from normfold.service.batching.thread_pool import INLINE_BYTES
from normfold.service.codec.request import InferRequest, decode_request, parse_object, raw_request, read_id
from normfold.service.codec.response import InferResponse
from normfold.service.codec.simdjson_decoder import parse_large
from normfold.service.error_responses import describe_error
from normfold.service.errors import InvalidRequestError
from normfold.service.http.body import SMALLEST_COMPRESSED, Headers, accepted_encoding, check_declared
from normfold.service.observability.request_trace import RequestTrace
from normfold.service.repository.loaded_model import Model
from normfold.service.repository.repository import Repository

JSON_TYPE, BYTES_TYPE = (b"content-type", b"application/json"), (b"content-type", b"application/octet-stream")
LENGTH_HEADER = b"inference-header-content-length"

Fields = list[tuple[bytes, bytes]]


class ModelRef(NamedTuple):
    """The model and version that a path names."""

    model: str
    version: str | None


def match(path: str) -> ModelRef | None:
    """Return whom a path asks to infer: /v2/models/{model}[/versions/{version}]/infer."""
    if not path.endswith("/infer"):
        return None
    parts = path.split("/")
    if parts[:3] == ["", "v2", "models"] and parts[3:4] != [""]:
        if len(parts) == 5:
            return ModelRef(parts[3], None)
        if len(parts) == 7 and parts[4] == "versions" and parts[5]:
            return ModelRef(parts[3], parts[5])
    return None


def admit(repository: Repository, named: ModelRef, headers: Headers, limit: int, phases: RequestTrace) -> Model:
    """Return the model, if it has room for a request; nothing of the body has been looked at.

    Raises:
        UnknownModelError, ModelUnavailableError, QueueFullError: it has none.
        BodyTooLargeError: by the length that is declared.
    """
    model = repository.find(named.model, named.version)
    phases.model, phases.version = model.name, model.version
    model.batcher.require_capacity()
    check_declared(headers, limit)
    return model


def read_front(headers: Headers) -> int | None:
    """Return the length of the JSON in front of the tensors; None if all is JSON.

    Raises:
        InvalidRequestError: the header is not a length.
    """
    text = headers.get(LENGTH_HEADER)
    if text is None:
        return None
    if not text.isdigit() or len(text) > 18:
        raise InvalidRequestError(
            f"The header Inference-Header-Content-Length is {text.decode('latin-1')!r}, not a length."
        )
    return int(text)


def decode(body: memoryview, front: int | None, model: Model, phases: RequestTrace) -> InferRequest:
    """Return the request, and note the id that it carries.

    Raises:
        InvalidRequestError: it is not one, or does not fit the model.
    """
    if front == 0:
        return raw_request(body, model.signature)
    head, raw = body, None
    if front is not None:
        if front > len(body):
            raise InvalidRequestError(f"The JSON should have {front} bytes; the body has {len(body)}.")
        head, raw = body[:front], body[front:]
    record = (parse_large(head) if len(head) > INLINE_BYTES else None) or parse_object(head)
    phases.identity = read_id(record)
    return decode_request(record, model.signature, raw)


def answer_fields(answer: InferResponse, phases: RequestTrace) -> Fields:
    """Return the header fields of an answer, but for what depends on how it is sent; note that it was answered."""
    phases.status, phases.encoded = 200, perf_counter()
    request_id = (b"x-request-id", phases.request_id.encode())
    if answer.json_bytes is None:
        return [JSON_TYPE, request_id]
    return [BYTES_TYPE, request_id, (LENGTH_HEADER, b"%d" % answer.json_bytes)]


def chosen_encoding(headers: Headers, size: int) -> bytes | None:
    """Return how an answer of so many bytes is compressed for this client, if it is."""
    accepted = headers.get(b"accept-encoding")
    return accepted_encoding(accepted) if accepted is not None and size >= SMALLEST_COMPRESSED else None


def refusal(error: NormfoldError, phases: RequestTrace) -> tuple[int, Fields, bytes]:
    """Return status, fields and body of the answer to an error, and note the status.

    Raises:
        NormfoldError: the error itself, if no answer is foreseen.
    """
    phases.status, body, extra = describe_error(error, phases.identity)
    request_id = (b"x-request-id", phases.request_id.encode())
    return phases.status, [JSON_TYPE, request_id, (b"content-length", b"%d" % len(body)), *extra], body
