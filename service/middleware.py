"""What surrounds every request: its id, the limit on its body, its line in the log, the answer to our own faults."""

from __future__ import annotations

import asyncio
import logging
import re
from contextlib import suppress
from time import perf_counter
from uuid import uuid4

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import BodyTooLargeError
from service.http_errors import INFER_ID, STATUS, error_response
from service.logs import FACTS, REQUEST_ID

access = logging.getLogger("service.access")
logger = logging.getLogger(__name__)

_SANE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_CLIENT_LEFT = 499

DRAIN_TIMEOUT_S = 2.0
"""How long, after a body was refused as too large, the rest of it is read and thrown away."""


class RequestMiddleware:
    """A plain ASGI middleware; nothing of a body is copied here."""

    def __init__(self, app: ASGIApp, max_body_bytes: int) -> None:
        self._app, self._max_body_bytes = app, max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        request_id = given if _SANE_ID.fullmatch(given) else uuid4().hex
        token = REQUEST_ID.set(request_id)
        started, status = perf_counter(), 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-Id"] = request_id
            await send(message)

        try:
            await self._answer(scope, headers, receive, send_with_id)
        except ClientDisconnect:
            status = _CLIENT_LEFT
        except asyncio.CancelledError:  # the HTTP server has waited long enough at its end
            if status:
                raise
            await error_response("The service is stopping.", 503, scope.get(INFER_ID))(scope, receive, send_with_id)
        except Exception:
            logger.exception("%s %s failed unexpectedly.", scope["method"], scope["path"])
            if status:
                raise  # half of an answer is out: only the HTTP server can end it
            text = f"The service failed unexpectedly; its log has the reason under the request id {request_id}."
            await error_response(text, 500, scope.get(INFER_ID))(scope, receive, send_with_id)
        finally:
            _log(scope, status, 1e3 * (perf_counter() - started))
            REQUEST_ID.reset(token)

    async def _answer(self, scope: Scope, headers: Headers, receive: Receive, send: Send) -> None:
        """Let the application answer, or refuse the body: from its declared length, or once too much has come."""
        received, more, refused = 0, True, False

        async def receive_within_limit() -> Message:
            nonlocal received, more
            message = await receive()
            received, more = received + len(message.get("body", b"")), message.get("more_body", False)
            if received > self._max_body_bytes:
                raise BodyTooLargeError(self._max_body_bytes)
            return message

        async def send_and_drain(message: Message) -> None:
            """Send; if the body was too large, read on before the connection is closed.

            A connection that is closed on unread bytes is reset, and the client may never see the answer.
            """
            nonlocal refused
            refused = refused or message.get("status") == STATUS[BodyTooLargeError]
            if refused and more and message["type"] == "http.response.body":
                await send({**message, "more_body": True})
                await _drain(receive)
                message = {"type": "http.response.body"}
            await send(message)

        declared = headers.get("content-length", "0")
        if declared.isdecimal() and int(declared[:20]) > self._max_body_bytes:
            error = BodyTooLargeError(self._max_body_bytes)
            answer = error_response(str(error), STATUS[BodyTooLargeError], headers={"Connection": "close"})
            await answer(scope, receive, send_and_drain)
            return
        await self._app(scope, receive_within_limit, send_and_drain)


async def _drain(receive: Receive) -> None:
    """Throw away what is left of a body, for as long as DRAIN_TIMEOUT_S."""
    with suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_TIMEOUT_S):
            while (await receive()).get("more_body", False):
                pass


def _log(scope: Scope, status: int, ms: float) -> None:
    """Write the line of a request: what was asked, what was answered, how long it took."""
    path = (
        scope["path"] if scope["path"].isprintable() else repr(scope["path"])
    )  # no line of a log is a client's to end
    facts = {"method": scope["method"], "path": path, "status": status, "ms": round(ms, 3)}
    if model := scope.get("path_params", {}).get("model"):
        facts["model"] = model
    access.info("%s %s %d in %.1f ms", scope["method"], path, status, ms, extra={FACTS: facts})
