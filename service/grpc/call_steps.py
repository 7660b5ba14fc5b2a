"""The steps of every gRPC request around what it asks for: trace, key, byte budget, status of an error, end.

What `service.http.middleware` is to HTTP. A request is a call, or one message of a stream.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import NamedTuple
from urllib.parse import unquote

from normfold.service.batching.thread_pool import INLINE_BYTES
from normfold.service.codec.headers import Headers
from normfold.service.errors import AmbiguousRequestError, BodyBudgetError, CallLimitError, DeadlineError
from normfold.service.inference.byte_budget import ByteBudget
from normfold.service.inference.response import Response
from normfold.service.inference.steps import RequestSteps, enter_log_context, fail, leave_log_context
from normfold.service.observability.request_trace import CLIENT_DISCONNECTED, RequestTrace
from normfold.service.proxy.forwarding import Forwarding, join_fields

SERVICE = "inference.GRPCInferenceService"

_READ = frozenset(
    {
        *("authorization", "x-api-key", "x-request-id", "traceparent", "tracestate"),
        *("x-forwarded-for", "x-real-ip"),
    }
)
_SINGLE = (b"authorization", b"x-api-key")
"""Metadata that may be given once only."""

_CLOCK_MARGIN_S = 0.05
"""A client ends a call at its own deadline, which began before the service had the call."""


class CallMetadata(NamedTuple):
    """What came with a call besides its messages.

    Attributes:
        path: /SERVICE/METHOD.
        headers: the metadata that the service reads, as headers of HTTP.
        fields: the same, in order and with duplicates.
        client: address that the call came from; None unless proxies are trusted, as for HTTP.
    """

    path: str
    headers: Headers
    fields: list[tuple[bytes, bytes]]
    client: str | None


class CallSteps:
    """Serves requests.

    Args:
        forwarding: finds the client of a call that came through proxies.
        steps: those of every request of any protocol.
        bodies: byte budget of all large bodies and messages together.
        max_calls: limit on the requests that are being answered; gRPC's own limit cancels calls without a reason.
    """

    def __init__(self, forwarding: Forwarding, steps: RequestSteps, bodies: ByteBudget, max_calls: int) -> None:
        self._forwarding = forwarding
        self._steps, self._bodies, self._max_calls = steps, bodies, max_calls
        self._calls = 0

    def read_metadata(self, method: str, metadata: Iterable[tuple[str, str | bytes]], peer: str) -> CallMetadata:
        """Return what the service reads of a call's metadata.

        Args:
            method: of the call.
            metadata: all of it.
            peer: that gRPC names: "ipv4:192.0.2.1:4711", "ipv6:[2001:db8::1]:4711", "unix:".
        """
        fields = [(key.encode(), _to_bytes(value)) for key, value in metadata if key in _READ]
        client = None
        if self._forwarding.is_active:
            client = self._forwarding.client(join_fields(fields), peer_address(peer))
        return CallMetadata(f"/{SERVICE}/{method}", dict(fields), fields, client)

    async def serve(
        self,
        metadata: CallMetadata,
        data: bytes,
        remaining_s: Callable[[], float | None],
        answer: Callable[[RequestTrace], Awaitable[bytes]],
    ) -> tuple[RequestTrace, bytes | Response]:
        """Serve one request.

        Args:
            metadata: of its call.
            data: its message, serialized.
            remaining_s: returns the seconds until the deadline of the call; None if it has none.
            answer: returns the response, serialized.

        Returns:
            The request's trace; and the response, serialized, or what HTTP would respond to the error.

        Raises:
            CancelledError: the client has cancelled the call, or the call's deadline has passed.
        """
        trace = self._steps.begin("POST", metadata.path, metadata.headers)
        trace.client = metadata.client
        token, reserved = enter_log_context(trace), 0
        self._calls += 1
        try:
            if self._calls > self._max_calls:
                raise CallLimitError
            _check_unambiguous(metadata)
            self._steps.authorize(trace, metadata.headers)
            reserved = self._reserve(len(data))
            response = await answer(trace)
            trace.status = 200
            return trace, response
        except asyncio.CancelledError:
            trace.status = CLIENT_DISCONNECTED
            remaining = remaining_s()
            if remaining is not None and remaining <= _CLOCK_MARGIN_S:
                fail(trace, DeadlineError())
            raise
        except Exception as error:  # noqa: BLE001 -- every error gets its status
            return trace, fail(trace, error)
        finally:
            self._calls -= 1
            self._bodies.release(reserved)
            self._steps.end(trace, metadata.fields, "http", metadata.path)
            leave_log_context(token, trace)

    def _reserve(self, nbytes: int) -> int:
        """Reserve the bytes of a large message until its response is made; return them.

        Raises:
            BodyBudgetError: the budget is used up.
        """
        if nbytes <= INLINE_BYTES:
            return 0
        if not self._bodies.reserve(nbytes):
            raise BodyBudgetError
        return nbytes


def _check_unambiguous(metadata: CallMetadata) -> None:
    """Reject a call with two keys, as HTTP does.

    Raises:
        AmbiguousRequestError: it has them.
    """
    if len(metadata.headers) == len(metadata.fields):
        return
    names = [name for name, _ in metadata.fields]
    if (doubled := next((name for name in _SINGLE if names.count(name) > 1), None)) is not None:
        raise AmbiguousRequestError(f"The request has the metadata {doubled.decode()!r} twice.")


def peer_address(peer: str) -> str:
    """Return the address of a peer that gRPC names; empty for a Unix socket."""
    kind, _, address = unquote(peer).partition(":")
    if kind not in ("ipv4", "ipv6"):
        return ""
    return address.rpartition(":")[0].strip("[]").partition("%")[0]


def _to_bytes(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode()
