"""One request and its response on a connection, through ASGI's messages (asgi.readthedocs.io, HTTP, version 2.3)."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

import httptools
from starlette.types import ASGIApp, Message, Scope

from normfold.service.error_responses import describe_fault
from normfold.service.http.cycle import Connection, RequestCycle
from normfold.service.http.request_parser import RequestParser

CYCLE = "normfold.cycle"
"""Key in the ASGI scope of the request's `AsgiCycle`; another server does not set it."""

THROUGH_ASGI = "normfold.through_asgi"
"""Key in the ASGI scope of a request whose response must pass through messages: a middleware adds headers to them."""

MAX_UNREAD_BYTES = 64 * 1024
"""Bytes of a body that the application has not read yet, from which on the connection is not read."""

_INVALID_IN_NAME = re.compile(rb'[\x00-\x1f\x7f()<>@,;:\[\]={} \t\\"]')
_INVALID_IN_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")

logger = logging.getLogger(__name__)


def make_scope(parser: RequestParser, addresses: Mapping[str, Any], app_state: Mapping[str, Any]) -> Scope:
    """Return the ASGI scope of the request whose headers are parsed.

    Raises:
        httptools.HttpParserError: the request target is not a URL.
    """
    url = httptools.parse_url(parser.url)
    raw_path = url.path or b"/"  # of http://host (RFC 9112, section 3.2.2)
    path = raw_path.decode("ascii")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": parser.version,
        "method": parser.method.decode("ascii"),
        "scheme": "http",
        "path": unquote(path) if "%" in path else path,
        "raw_path": raw_path,
        "query_string": url.query or b"",
        "root_path": "",
        "headers": parser.headers,
        "state": dict(app_state),
        **addresses,
    }


class AsgiCycle(RequestCycle):
    """A request that an ASGI application serves in a task.

    Attributes:
        max_unread_bytes: as MAX_UNREAD_BYTES; a reader that takes all pieces raises it.
        unread_bytes: bytes of the body that have arrived, and that the application has not read.
    """

    more_body = True
    unread_bytes = 0
    max_unread_bytes = MAX_UNREAD_BYTES
    _is_end_read = False
    _is_chunked = False
    _bytes_left = 0
    _changed: asyncio.Event | None = None

    def __init__(self, connection: Connection, keep_alive: bool, method: str, waits_for_continue: bool) -> None:
        super().__init__(connection, keep_alive)
        self._method, self.waits_for_continue = method, waits_for_continue
        self._pieces: list[bytes] = []

    async def run(self, app: ASGIApp, scope: Scope) -> None:
        """Let an application serve the request."""
        try:
            await app(scope, self.receive, self.send)
        except BaseException as error:
            if isinstance(error, Exception):
                logger.error("The ASGI application raised.", exc_info=error)
        else:
            if self.response_complete or self.is_disconnected:
                return
            logger.error("The ASGI application returned before its response was complete.")
        if self.response_started:
            self.connection.transport.close()
        else:
            status, body, _ = describe_fault()
            headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
            self.keep_alive = False
            self.write_response(status, headers, (body,))

    def disconnect(self) -> None:
        """Note that the client has disconnected, unless its response is complete."""
        super().disconnect()
        self._notify()

    def feed_body(self, piece: bytes) -> None:
        """Take a piece of the body from the parser."""
        if self.response_complete:
            return
        self._pieces.append(piece)
        self.unread_bytes += len(piece)
        self.waits_for_continue = False
        if self.unread_bytes > self.max_unread_bytes:
            self.connection.flow.pause_reading()
        self._notify()

    def end_body(self) -> None:
        """Note that the body is complete."""
        if not self.response_complete:
            self.more_body = self.waits_for_continue = False
            self._notify()

    def request_body(self) -> None:
        """Let the client send its body, and read it from the connection."""
        if self.waits_for_continue and not self.connection.transport.is_closing():
            self.connection.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.waits_for_continue = False
        self.connection.flow.resume_reading()

    def take_body(self) -> list[bytes]:
        """Return the pieces of the body that have arrived since the last call."""
        pieces, self._pieces, self.unread_bytes = self._pieces, [], 0
        return pieces

    async def changed(self) -> None:
        """Wait until more of the body, its end, the end of the response, or a disconnect is noted."""
        if self._changed is None:
            self._changed = asyncio.Event()
        await self._changed.wait()
        self._changed.clear()

    async def receive(self) -> Message:
        """Return ASGI's next message to the application."""
        if not self._is_over():
            self.request_body()
        while not self._is_over() and not self._pieces and (self.more_body or self._is_end_read):
            await self.changed()
        if self._is_over():
            return {"type": "http.disconnect"}
        self._is_end_read = not self.more_body
        return {"type": "http.request", "body": b"".join(self.take_body()), "more_body": self.more_body}

    async def send(self, message: Message) -> None:
        """Take a message of the application's and write what it says.

        Raises:
            RuntimeError: the message comes out of order, has an invalid header, or its body does not have the length
                that its headers declare.
        """
        await self.connection.flow.drain()
        if self.is_disconnected:
            return
        expected = "http.response.body" if self.response_started else "http.response.start"
        if self.response_complete or message["type"] != expected:
            raise RuntimeError(f"The ASGI message {message['type']!r} is out of order.")
        if expected == "http.response.start":
            headers = [(name.lower(), value) for name, value in message.get("headers", ())]
            self._send_head(message["status"], headers)
        else:
            self._send_body(message.get("body", b""), message.get("more_body", False))

    def _send_head(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        for name, value in headers:
            if _INVALID_IN_NAME.search(name) or _INVALID_IN_VALUE.search(value):
                raise RuntimeError(f"The response header {name!r} is invalid.")
        fields = dict(headers)
        self._is_chunked = fields.get(b"transfer-encoding", b"").lower() == b"chunked"
        if not self._is_chunked:
            self._bytes_left = int(fields.get(b"content-length", 0))
            if b"content-length" not in fields and self._method != "HEAD" and status not in (204, 304):
                self._is_chunked = True
                headers.append((b"transfer-encoding", b"chunked"))
        if self._method == "HEAD":
            self._bytes_left = 0
        if b"close" in fields.get(b"connection", b"").lower():
            self.keep_alive = False
            headers = [(name, value) for name, value in headers if name != b"connection"]
        self.connection.transport.write(b"".join(self._head(status, headers)))

    def _send_body(self, body: bytes, more_body: bool) -> None:
        if self._method == "HEAD":
            body = b""
        elif self._is_chunked:
            body = (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + (b"" if more_body else b"0\r\n\r\n")
        else:
            self._bytes_left -= len(body)
            if self._bytes_left < 0 or (self._bytes_left and not more_body):
                raise RuntimeError("The response's body does not have the length that its Content-Length declares.")
        if body:
            self.connection.transport.write(body)
        if not more_body:
            self._complete()

    def _is_over(self) -> bool:
        return self.is_disconnected or self.response_complete

    def _complete(self) -> None:
        super()._complete()
        self._notify()

    def _notify(self) -> None:
        if self._changed is not None:
            self._changed.set()
