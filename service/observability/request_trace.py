"""The record of one request: what it named, when each of its phases began, how it was answered."""

from __future__ import annotations

from dataclasses import dataclass, field
from time import perf_counter

from normfold.service.auth.key_file import Key
from normfold.service.batching.batch import QueuedRequest

CLIENT_DISCONNECTED = 499
"""Status of a request whose client disconnected: in metrics and logs only, since no response was sent."""

REQUEST_TRACE_KEY = "normfold.request_trace"
"""Key of a request's `RequestTrace` in the ASGI scope."""


@dataclass(slots=True)
class RequestTrace:
    """One request. Times are on the clock of perf_counter; 0 for a phase that it did not reach.

    Attributes:
        request_id: from its X-Request-Id header, or generated.
        model: that it named, if it exists.
        version: that answers it; 0 before that is known.
        client_request_id: the `id` in the body of an infer request.
        method: HTTP's.
        path: HTTP's, decoded.
        started: when its headers were read.
        received: when the last byte of its body was read.
        decoded: when its tensors were decoded.
        encoded: when its response was encoded.
        ended: when the response was sent, or handed to the socket.
        status: HTTP's; 0 before there is one.
        queued_request: its tensors in the queue of the model, with the times of queue and run.
        key: that it was sent with.
        client: address that the request came from; None unless proxies are trusted.
        trace_id: of the distributed trace that it belongs to (W3C Trace Context), 32 hexadecimal digits.
    """

    request_id: str
    model: str = ""
    version: int = 0
    client_request_id: str | None = None
    method: str = "POST"
    path: str = ""
    started: float = field(default_factory=perf_counter)
    received: float = 0.0
    decoded: float = 0.0
    encoded: float = 0.0
    ended: float = 0.0
    status: int = 0
    queued_request: QueuedRequest | None = None
    key: Key | None = None
    client: str | None = None
    trace_id: str | None = None
