"""The steps of every request around the application: trace, key, byte budget of bodies, response to an error, end.

Infer requests branch off here to `service.inference.asgi`, before the framework's own machinery.
"""

from __future__ import annotations

import asyncio
from collections import Counter

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from normfold.service.codec.headers import Headers, check_declared_length
from normfold.service.error_responses import METHOD_KEY, log_fault
from normfold.service.errors import (
    AmbiguousRequestError,
    ClientDisconnectedError,
    StoppingError,
    UnknownPathError,
)
from normfold.service.http.asgi_exchange import AsgiExchange
from normfold.service.http.cross_site import CrossSiteCheck
from normfold.service.inference.asgi import InferRoute
from normfold.service.inference.byte_budget import BODY_RESERVATION_KEY, BodyReservation, ByteBudget, declared_bytes
from normfold.service.inference.model_ref import match_infer_path
from normfold.service.inference.steps import RequestSteps, enter_log_context, fail, leave_log_context
from normfold.service.observability.request_trace import CLIENT_DISCONNECTED, REQUEST_TRACE_KEY
from normfold.service.proxy.forwarding import FORWARDED_KEY

_SINGLE_HEADERS = (b"host", b"content-encoding", b"inference-header-content-length", b"authorization", b"x-api-key")
"""Headers that may be given once only; the parser itself rejects a second Content-Length."""


class RequestMiddleware:
    """A plain ASGI middleware; it copies no body.

    Args:
        app: serves all requests but infer requests.
        infer: serves infer requests.
        steps: those of every request.
        max_body_bytes: limit on the body of one request.
        bodies: byte budget of all large bodies together.
        cross_site: checks where requests that change state come from.
    """

    def __init__(
        self,
        app: ASGIApp,
        infer: InferRoute,
        steps: RequestSteps,
        max_body_bytes: int,
        bodies: ByteBudget,
        cross_site: CrossSiteCheck,
    ) -> None:
        self._app, self._infer, self._steps, self._max_body_bytes = app, infer, steps, max_body_bytes
        self._bodies, self._cross_site = bodies, cross_site

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers: Headers = dict(scope["headers"])
        trace = self._steps.begin(scope["method"], scope["path"], headers)
        if FORWARDED_KEY in scope:
            trace.client = scope[FORWARDED_KEY].client
        reservation = BodyReservation(self._bodies)
        exchange = AsgiExchange(scope, receive, send, headers, trace, self._max_body_bytes, reservation)
        reference = match_infer_path(scope["path"]) if scope["method"] == "POST" else None
        if scope["method"] == "HEAD":  # as GET; the server leaves the body of the response out (RFC 9110, 9.3.2)
            scope = {**scope, "method": "GET", METHOD_KEY: "HEAD"}
        token = enter_log_context(trace)
        try:
            _check_unambiguous(scope, headers)
            self._steps.authorize(trace, headers)
            reservation.resize(declared_bytes(headers, self._max_body_bytes))
            if reference is not None:
                await self._infer(exchange, trace, reference)
            else:
                scope[REQUEST_TRACE_KEY], scope[BODY_RESERVATION_KEY] = trace, reservation
                _check_path(scope["path"])
                self._cross_site.check(scope["method"], scope["path"], headers, bool(scope.get("client")))
                check_declared_length(headers, self._max_body_bytes)
                await self._app(scope, exchange.receive, exchange.send_message)
        except (ClientDisconnect, ClientDisconnectedError):
            trace.status = CLIENT_DISCONNECTED
        except asyncio.CancelledError:  # the grace period of shutdown is over
            if trace.status:
                raise
            await exchange.send(fail(trace, StoppingError()))
        except Exception as error:
            if trace.status == 500:  # the framework raises a fault again after its response
                return
            if trace.status:  # a part of the response is sent: only the HTTP server can end it
                log_fault(trace.method, trace.path, error)
                raise
            await exchange.send(fail(trace, error))
        finally:
            reservation.release()
            if not trace.model:
                trace.model = scope.get("path_params", {}).get("model", "")
            route = getattr(scope.get("route"), "path", None) if reference is None else reference.route
            self._steps.end(trace, scope["headers"], scope.get("scheme"), route)
            leave_log_context(token, trace)


def _check_path(path: str) -> None:
    """Reject paths that the framework's patterns take for others: one that ends in a line feed, and another verb.

    Raises:
        UnknownPathError: always then.
    """
    last = path.rpartition("/")[2]
    is_other_verb = ":" in last and path.startswith("/v1/") and not last.endswith((":predict", ":classify"))
    if is_other_verb or path.endswith("\n"):
        raise UnknownPathError(path)


def _check_unambiguous(scope: Scope, headers: Headers) -> None:
    """Reject a request that the service and a proxy in front of it might read in two ways.

    Raises:
        AmbiguousRequestError: it has no Host, another Transfer-Encoding than chunked, or a header twice.
    """
    is_plain = len(headers) == len(scope["headers"]) and b"host" in headers and b"transfer-encoding" not in headers
    if is_plain:
        return
    if b"host" not in headers and scope["http_version"] == "1.1":
        raise AmbiguousRequestError("The request has no Host header.")
    if headers.get(b"transfer-encoding", b"chunked").lower() != b"chunked":
        raise AmbiguousRequestError("The request has a Transfer-Encoding other than chunked.")
    counts = Counter(name for name, _ in scope["headers"])
    if (doubled := next((name for name in _SINGLE_HEADERS if counts[name] > 1), None)) is not None:
        raise AmbiguousRequestError(f"The request has the header {doubled.decode().title()!r} twice.")
