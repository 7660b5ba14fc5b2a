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


def to_response(
    encoded: InferResponse, trace: RequestTrace, encoding: bytes | None = None, compressed: bytes = b""
) -> Response:
    """Return the response with encoded results.

    Args:
        encoded: JSON and binary tensors.
        trace: the request's.
        encoding: content coding of `compressed`; None if the response is not compressed.
        compressed: the body in that coding.
    """
    headers = [JSON_TYPE if encoded.json_bytes is None else _BINARY_TYPE, (b"x-request-id", trace.request_id.encode())]
    if encoded.json_bytes is not None:
        headers.append((JSON_LENGTH_HEADER, b"%d" % encoded.json_bytes))
    if encoding is None:
        headers.append((b"content-length", b"%d" % encoded.size))
        return Response(200, headers, encoded.pieces)
    headers += ((b"content-encoding", encoding), (b"vary", b"accept-encoding"))
    headers.append((b"content-length", b"%d" % len(compressed)))
    return Response(200, headers, (compressed,))
