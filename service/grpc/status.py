"""From the HTTP response of an error to gRPC's status: HTTP's table of errors holds for both protocols."""

from __future__ import annotations

from typing import NamedTuple

import grpc
import orjson
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status

from normfold.service.inference.response import Response

CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    408: grpc.StatusCode.DEADLINE_EXCEEDED,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    415: grpc.StatusCode.INVALID_ARGUMENT,
    422: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    431: grpc.StatusCode.RESOURCE_EXHAUSTED,
    499: grpc.StatusCode.CANCELLED,
    500: grpc.StatusCode.INTERNAL,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
"""gRPC's codes by HTTP status."""

_MAX_TEXT_BYTES = 1000
"""Of UTF-8. The text is sent as a header, three bytes for each of most, and with RetryInfo once more; clients limit the
headers to 8 kB. A request's id, which it quotes, has no limit."""

_DETAILS = "grpc-status-details-bin"

Metadata = tuple[tuple[str, str | bytes], ...]


class CallStatus(NamedTuple):
    """The status of a call that failed.

    Attributes:
        code: gRPC's.
        text: one sentence.
        details: trailing metadata: a google.rpc.Status with RetryInfo, where HTTP has Retry-After.
    """

    code: grpc.StatusCode
    text: str
    details: Metadata


def to_status(response: Response) -> CallStatus:
    """Return the status that says what an HTTP response to an error says."""
    text = _shorten(str(orjson.loads(b"".join(response.body))["error"]))
    code, retry_after = CODES[response.status], dict(response.headers).get(b"retry-after")
    if retry_after is None:
        return CallStatus(code, text, ())
    detail = Any()
    detail.Pack(RetryInfo(retry_delay=Duration(seconds=int(retry_after))))
    status = Status(code=code.value[0], message=text, details=[detail])
    return CallStatus(code, text, ((_DETAILS, status.SerializeToString()),))


def _shorten(text: str) -> str:
    encoded = text.encode()
    if len(encoded) <= _MAX_TEXT_BYTES:
        return text
    end = "…"
    return encoded[: _MAX_TEXT_BYTES - len(end.encode())].decode(errors="ignore") + end
