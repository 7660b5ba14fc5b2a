"""What surrounds every request: its id, its key, the limit on its body, its counts and line, the answer to our faults.

The infer route branches off here, before the framework's own machinery.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING

from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from normfold.contract.errors import NormfoldError
from normfold.service.auth.authorization import Authorizer
from normfold.service.error_responses import STATUS, describe_error, describe_fault, error_response, log_fault
from normfold.service.errors import BodyBudgetError, BodyTooLargeError, UnknownPathError
from normfold.service.http.body import Headers, check_declared, drain
from normfold.service.http.body_room import BodyRoom
from normfold.service.http.connection import CYCLE, waits_for_continue
from normfold.service.inference.asgi import InferRoute
from normfold.service.logs import REQUEST_ID, TRACE_ID
from normfold.service.observability.request_trace import CLIENT_DISCONNECTED, REQUEST_TRACE_KEY, RequestTrace
from normfold.service.observability.telemetry import Telemetry
from normfold.service.observability.trace_context import read_trace_id

if TYPE_CHECKING:
    from normfold.service.observability.otel import Spans

_GIVEN_ONCE = (b"host", b"content-encoding", b"inference-header-content-length", b"authorization", b"x-api-key")
"""Headers that say what a request is; the parser itself refuses Content-Length twice."""


class RequestMiddleware:
    """A plain ASGI middleware; nothing of a body is copied here.

    Args:
        app: what answers.
        infer: what answers before that.
        telemetry: where requests are counted.
        max_body_bytes: of a body, the limit.
        max_bodies_bytes: of all large bodies together, likewise.
        doors: who may pass; None if anyone may.
        spans: where requests are traced, if they are.
    """

    def __init__(
        self,
        app: ASGIApp,
        infer: InferRoute,
        telemetry: Telemetry,
        max_body_bytes: int,
        max_bodies_bytes: int,
        doors: Authorizer | None = None,
        spans: Spans | None = None,
    ) -> None:
        self._app, self._infer, self._telemetry, self._max_body_bytes = app, infer, telemetry, max_body_bytes
        self._doors, self._spans = doors, spans
        self._bodies = BodyRoom(max_bodies_bytes, max_body_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        telemetry = self._telemetry
        headers: Headers = dict(scope["headers"])
        phases = RequestTrace(telemetry.request_id(headers), method=scope["method"], path=scope["path"])
        if self._spans is not None or b"traceparent" in headers:
            self._note_trace(phases, headers)
        telemetry.in_flight += 1
        token, held = REQUEST_ID.set(phases.request_id), 0
        try:
            is_plain = (
                b"host" in headers and b"transfer-encoding" not in headers and len(headers) == len(scope["headers"])
            )
            refusal = None if self._doors is None else self._doors.check(scope["path"], headers, phases)
            if not is_plain and (problem := _find_problem(scope, headers)):
                closing = {"Connection": "close"}
                await error_response(problem, 400, closing)(scope, receive, _noted(send, phases))
            elif refusal is not None:
                await _refuse(scope, _noted(send, phases), refusal)
            elif (named := InferRoute.match(scope)) is not None:
                held = self._bodies.take(headers)
                await self._infer(scope, receive, send, headers, phases, named)
            else:
                held = self._bodies.take(headers)
                scope[REQUEST_TRACE_KEY] = phases
                await self._answer(scope, headers, receive, _noted(send, phases))
        except BodyBudgetError as error:
            await _refuse(scope, _noted(send, phases), error)
        except ClientDisconnect:
            phases.status = CLIENT_DISCONNECTED
        except asyncio.CancelledError:  # the HTTP server has waited long enough at its end
            if phases.status:
                raise
            await error_response("The service is stopping.", 503)(scope, receive, _noted(send, phases))
        except Exception as error:
            if phases.status == 500:
                return  # logged and answered, and raised again
            log_fault(phases.method, phases.path, error)
            if phases.status:
                raise  # half of an answer is out: only the HTTP server can end it
            await error_response(describe_fault(phases.identity), 500)(scope, receive, _noted(send, phases))
        finally:
            scope.pop(CYCLE, None)
            self._bodies.give_back(held)
            telemetry.in_flight -= 1
            if not phases.model:
                phases.model = scope.get("path_params", {}).get("model", "")
            telemetry.record(phases)
            if self._spans is not None:
                self._spans.record(phases, scope)
            REQUEST_ID.reset(token)
            if phases.trace_id is not None:
                TRACE_ID.set(None)

    def _note_trace(self, phases: RequestTrace, headers: Headers) -> None:
        """Note the trace that a request belongs to, a new one if it names none; its lines of the log carry it."""
        phases.trace_id = read_trace_id(headers.get(b"traceparent", b""))
        if phases.trace_id is None and self._spans is not None:
            phases.trace_id = self._spans.new_trace_id()
        TRACE_ID.set(phases.trace_id)

    async def _answer(self, scope: Scope, headers: Headers, receive: Receive, send: Send) -> None:
        """Let the application answer, or refuse the body: from its declared length, or once too much has come."""
        if scope["path"].endswith("\n"):  # the framework's patterns would take it for the path without
            await error_response(str(UnknownPathError(scope["path"])), 404)(scope, receive, send)
            return
        received, more, refused = 0, True, False

        async def receive_within_limit() -> Message:
            nonlocal received, more
            message = await receive()
            received, more = received + len(message.get("body", b"")), message.get("more_body", False)
            if received > self._max_body_bytes:
                raise BodyTooLargeError(self._max_body_bytes)
            return message

        async def send_and_drain(message: Message) -> None:
            """Send; if the body was too large, read on before the connection is closed."""
            nonlocal refused
            refused = refused or message.get("status") == STATUS[BodyTooLargeError]
            if refused and more and message["type"] == "http.response.body":
                await send({**message, "more_body": True})
                await drain(receive)
                message = {"type": "http.response.body"}
            await send(message)

        try:
            check_declared(headers, self._max_body_bytes)
        except BodyTooLargeError as error:
            await _refuse(scope, send_and_drain, error)
            return
        await self._app(scope, receive_within_limit, send_and_drain)


async def _refuse(scope: Scope, send: Send, error: NormfoldError) -> None:
    """Answer a request whose body is not read."""
    status, body, extra = describe_error(error, None)
    fields = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *extra]
    if waits_for_continue(scope) and (b"connection", b"close") not in fields:  # whether it sends its body, nobody knows
        fields.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": body})


def _find_problem(scope: Scope, headers: Headers) -> str | None:
    """Return why a request might be read in two ways, by us and by a proxy before us; None if there is but one."""
    if b"host" not in headers and scope["http_version"] == "1.1":
        return "The request has no Host header."
    if headers.get(b"transfer-encoding", b"chunked").lower() != b"chunked":
        return "The request has a Transfer-Encoding other than chunked."
    given = Counter(name for name, _ in scope["headers"])
    doubled = next((name for name in _GIVEN_ONCE if given[name] > 1), None)
    return None if doubled is None else f"The request has the header {doubled.decode().title()!r} twice."


def _noted(send: Send, phases: RequestTrace) -> Send:
    """Return a send that notes the status, and gives the answer its request id."""

    async def send_noted(message: Message) -> None:
        if message["type"] == "http.response.start":
            phases.status = message["status"]
            MutableHeaders(scope=message)["X-Request-Id"] = phases.request_id
        await send(message)

    return send_noted
