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

_LINGER_S = 0.1
"""How long, at the end, a connection without a request may still bring one: it may be on its way, or lie unread."""


class ServiceProtocol(HttpToolsProtocol):
    """HTTP/1.1 on one connection.

    Requests may be sent one behind the other; `_active` is the one that is being answered, uvicorn's `cycle` the one
    that was read last.
    """

    settings: Settings
    on_lost: Callable[[], None] | None = None
    is_lost = False
    _active: RequestResponseCycle | None = None
    _reading_since: float | None = None
    _idle_since: float | None = None
    _stuck: tuple[int, float] = (0, 0.0)
    _chunk_bytes = 0
    _header_bytes = 0
    _in_headers = False
    _is_ending = False

    def connection_made(self, transport: Any) -> None:
        """Take the connection, unless there are as many as may be."""
        super().connection_made(transport)
        self._reading_since = self.loop.time()
        if len(self.connections) > self.settings.max_connections:
            self.refuse(503, "Too many connections are open; try again in 1 second.", b"retry-after: 1\r\n")

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever waits for an answer, or has one, that nobody reads it."""
        self.is_lost = True
        super().connection_lost(exc)
        for cycle in (self._active, *(waiting for waiting, _ in self.pipeline)):
            if cycle is not None and not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()
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
        within, self._chunk_bytes = self._in_headers, len(data)
        super().data_received(data)
        if self._in_headers:
            self._header_bytes += len(data) if within else 0  # of the first piece, only what was understood counts
            if self._header_bytes > self.settings.max_header_bytes or self._are_long():
                self._refuse_headers()

    def on_headers_complete(self) -> None:
        """Start the request."""
        self._in_headers = False
        if self._chunk_bytes + self._header_bytes > self.settings.max_header_bytes and self._are_long():
            self._refuse_headers()
            return
        super().on_headers_complete()  # the request's task has not begun to run yet
        self.scope[CYCLE] = self.cycle  # type: ignore[literal-required]
        if self._is_ending:
            self.cycle.keep_alive = False

    def on_message_complete(self) -> None:
        """Stop the clock."""
        self._reading_since = None
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Begin to wait for the next request."""
        self._idle_since = self.loop.time()
        super().on_response_complete()

    def shutdown(self) -> None:
        """End the connection behind the request that it has, or behind one that comes within a moment."""
        self._is_ending = True
        if self._active is None or self._active.response_complete:
            self.loop.call_later(_LINGER_S, super().shutdown)
        else:
            super().shutdown()

    def resume_writing(self) -> None:
        """Note that the client reads: behind this, more may wait than before."""
        self._stuck = (0, 0.0)
        super().resume_writing()

    def look(self, now: float) -> None:
        """End a connection that is too slow to send, to read, or to do anything."""
        patience = self.settings.receive_timeout_s
        if self.transport.is_closing():
            return
        waiting = self.transport.get_write_buffer_size()
        before, since = self._stuck
        self._stuck = (waiting, now if not waiting or not before or waiting < before else since)
        if now - self._stuck[1] > patience:
            self.transport.abort()  # it does not read its answer
            return
        answering = self._active is not None and not self._active.response_complete and not self._active.more_body
        if answering or self.pipeline:
            self._reading_since = self._reading_since and now  # reading is paused for those behind it
        elif self._reading_since is not None:
            if now - self._reading_since > patience:
                self.refuse(408, f"The request did not come whole within {patience:g} s.")
        elif self._idle_since is not None and now - self._idle_since > self.timeout_keep_alive + _SWEEP_S:
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Answer a request that cannot be parsed."""
        self.refuse(400, msg)

    def refuse(self, status: int, text: str, header: bytes = b"") -> None:
        """Answer the request that is being read, and close the connection; never amid another one's answer."""
        active = self._active
        if self.transport.is_closing():
            return
        if active is not None and not active.response_complete:
            if not active.more_body or self.pipeline:  # it is another one that cannot be read: answer this one, and end
                active.keep_alive = False
                self.pipeline.clear()
                self.flow.pause_reading()
                return
            started, active.disconnected = active.response_started, True
            active.message_event.set()
        else:
            started = active is not None and not self._in_headers and self._reading_since is not None
        if not started:
            body = json.dumps({"error": text}).encode()
            head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n" % len(body)
            self.transport.write(b"".join([STATUS_LINE[status], head, header, b"\r\n", body]))
        self.transport.close()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._active = cycle
        super()._start_asgi_task(cycle, app)

    def _unsupported_upgrade_warning(self) -> None:
        """Answer a request for another protocol in this one, and read no further: what follows was not parsed."""
        if self.cycle is not None:
            self.cycle.keep_alive = False
        self.flow.pause_reading()

    def _are_long(self) -> bool:
        return sum(len(name) + len(value) + 4 for name, value in self.headers) > self.settings.max_header_bytes

    def _refuse_headers(self) -> None:
        self._in_headers = True
        self.refuse(431, f"The headers are over the limit of {self.settings.max_header_bytes:,} bytes.")


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
                connection.look(now)
        loop.call_later(_SWEEP_S, self._sweep, loop)
