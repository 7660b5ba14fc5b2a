"""The response of any request, and that of an infer request from its encoded results."""

from __future__ import annotations

from typing import NamedTuple

from normfold.service.batching.batch import Results
from normfold.service.batching.thread_pool import INLINE_BYTES
from normfold.service.codec.binary_tensors import Piece
from normfold.service.codec.headers import JSON_LENGTH_HEADER, HeaderFields
from normfold.service.codec.response import InferResponse
from normfold.service.observability.request_trace import RequestTrace

JSON_TYPE = (b"content-type", b"application/json")
_BINARY_TYPE = (b"content-type", b"application/octet-stream")


class Response(NamedTuple):
    """A response: HTTP status, headers, and the body in pieces."""

    status: int
    headers: HeaderFields
    body: tuple[Piece, ...]

    @property
    def body_bytes(self) -> int:
        """Bytes of the body."""
        return sum(map(len, self.body))


def are_large(results: Results) -> bool:
    """Return whether results are encoded in a thread, and counted by the byte budget of responses."""
    return sum([array.nbytes for array in results.values()]) > INLINE_BYTES


def to_response(encoded: InferResponse, trace: RequestTrace, nbytes: int) -> Response:
    """Return the response with encoded results, which have `nbytes` bytes."""
    request_id, length = (b"x-request-id", trace.request_id.encode()), (b"content-length", b"%d" % nbytes)
    if encoded.json_bytes is None:
        return Response(200, [JSON_TYPE, request_id, length], encoded.pieces)
    json_length = (JSON_LENGTH_HEADER, b"%d" % encoded.json_bytes)
    return Response(200, [_BINARY_TYPE, request_id, json_length, length], encoded.pieces)


def to_compressed_response(encoded: InferResponse, trace: RequestTrace, encoding: bytes, body: bytes) -> Response:
    """Return the response with encoded results that were compressed to `body`."""
    plain = to_response(encoded, trace, len(body))
    return Response(200, [*plain.headers, (b"content-encoding", encoding), (b"vary", b"accept-encoding")], (body,))
