"""What surrounds every request: its id, the limit on its body, its line in the log, the answer to our own faults."""

from __future__ import annotations

import logging
import re
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
        declared = headers.get("content-length", "0")
        if declared.isdecimal() and int(declared[:20]) > self._max_body_bytes:
            error = BodyTooLargeError(self._max_body_bytes)
            answer = error_response(str(error), STATUS[BodyTooLargeError], headers={"Connection": "close"})
            await answer(scope, receive, send)
            return
        received = 0

        async def receive_within_limit() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_body_bytes:
                raise BodyTooLargeError(self._max_body_bytes)
            return message

        await self._app(scope, receive_within_limit, send)


def _log(scope: Scope, status: int, ms: float) -> None:
    """Write the line of a request: what was asked, what was answered, how long it took."""
    path = (
        scope["path"] if scope["path"].isprintable() else repr(scope["path"])
    )  # no line of a log is a client's to end
    facts = {"method": scope["method"], "path": path, "status": status, "ms": round(ms, 3)}
    if model := scope.get("path_params", {}).get("model"):
        facts["model"] = model
    access.info("%s %s %d in %.1f ms", scope["method"], path, status, ms, extra={FACTS: facts})
