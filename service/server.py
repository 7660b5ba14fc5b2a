"""The HTTP server around the application: uvicorn, told to answer and to end as the rest of the service does.

What never reaches the application is answered here, in the form that all errors have: a request that cannot be parsed
(400), headers that are too long (431), a client that takes too long to send (408), one connection too many (503).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from service.connection import CONNECTION, CYCLE
from service.settings import Settings

SHUTDOWN_TIMEOUT_S = 20
"""How long requests in flight may go on at the end; a client that sent half of one would keep the process for ever.

With what the workers get after it, this is less than the 30 s after which container runtimes kill.
"""

_SWEEP_S = 1.0


class ServiceProtocol(HttpToolsProtocol):
    """HTTP/1.1 on one connection."""

    settings: Settings
    on_lost: Callable[[], None] | None = None
    _reading_since: float | None = None
    _header_bytes = 0
    _in_headers = False

    def connection_made(self, transport: Any) -> None:
        """Take the connection, unless there are as many as may be."""
        super().connection_made(transport)
        self._reading_since = self.loop.time()
        if len(self.connections) > self.settings.max_connections:
            self.refuse(503, "Too many connections are open; try again in 1 second.", b"retry-after: 1\r\n")

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever waits for an answer that nobody reads it."""
        super().connection_lost(exc)
        if self.on_lost is not None:
            self.on_lost()

    def on_message_begin(self) -> None:
        """Let the request know its connection, and the clock run until it has come whole."""
        super().on_message_begin()
        self.scope[CONNECTION] = self  # type: ignore[literal-required]
        self._reading_since = self.loop.time()
        self._header_bytes, self._in_headers = 0, True

    def data_received(self, data: bytes) -> None:
        """Take bytes, while the headers are not too long."""
        super().data_received(data)
        if self._in_headers:
            self._header_bytes += len(data)
            if self._header_bytes > self.settings.max_header_bytes:
                self._in_headers = False
                self.refuse(431, f"The headers are over the limit of {self.settings.max_header_bytes:,} bytes.")

    def on_headers_complete(self) -> None:
        """Start the request."""
        self._in_headers = False
        super().on_headers_complete()  # the request's task has not begun to run yet
        self.scope[CYCLE] = self.cycle  # type: ignore[literal-required]

    def on_message_complete(self) -> None:
        """Stop the clock."""
        self._reading_since = None
        super().on_message_complete()

    def refuse_if_slow(self, now: float) -> None:
        """End a connection whose request has not come whole in time."""
        since = self._reading_since
        if since is not None and now - since > self.settings.receive_timeout_s and not self.transport.is_closing():
            self.refuse(408, f"The request did not come whole within {self.settings.receive_timeout_s:g} s.")

    def send_400_response(self, msg: str) -> None:
        """Answer a request that cannot be parsed."""
        self.refuse(400, msg)

    def refuse(self, status: int, text: str, header: bytes = b"") -> None:
        """Answer, unless an answer is on its way, and close the connection."""
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is None or cycle.response_complete or not cycle.response_started:
            body = json.dumps({"error": text}).encode()
            head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n" % len(body)
            self.transport.write(b"".join([STATUS_LINE[status], head, header, b"\r\n", body]))
        self.transport.close()


def make_server(app: ASGIApp, settings: Settings) -> uvicorn.Server:
    """Return a server for sockets that are open already; it logs through the service's own logger."""
    protocol = type("ConfiguredProtocol", (ServiceProtocol,), {"settings": settings})
    return _Server(
        uvicorn.Config(
            app,
            http=protocol,
            loop="uvloop",
            ws="none",
            interface="asgi3",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=SHUTDOWN_TIMEOUT_S,
        )
    )


class _Server(uvicorn.Server):
    """Looks every second for connections that are too slow."""

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        self._sweep(asyncio.get_running_loop())

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        for connection in list(self.server_state.connections):
            if isinstance(connection, ServiceProtocol):
                connection.refuse_if_slow(now)
        loop.call_later(_SWEEP_S, self._sweep, loop)
