"""HTTP/1.1 on one connection: uvicorn's protocol, told to answer and to end as the rest of the service does.

What never reaches the application is answered here, in the form that all errors have: a request that cannot be parsed
(400), headers that are too long (431), a client that takes too long to send (408), one connection too many (503).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from normfold.service.codec.binary_tensors import Piece
from normfold.service.http.body import Headers
from normfold.service.http.connection import CONNECTION, CYCLE, ShortCycle, write_slowly, write_whole
from normfold.service.http.zero_copy_body import SMALLEST_DIRECT, Reader
from normfold.service.inference.fast_path import FastPath
from normfold.service.inference.steps import Fields, ModelRef

if TYPE_CHECKING:
    from normfold.service.http.server import ServiceConfig

_REAP_EVERY_S = 1.0

_CLOSE_GRACE_S = 0.1
"""How long, at the end, a connection without a request may still bring one: it may be on its way, or lie unread."""


class ServiceProtocol(HttpToolsProtocol):
    """HTTP/1.1 on one connection.

    Requests may be sent one behind the other; `_active` is the one that is being answered, uvicorn's `cycle` the one
    that was read last. A small infer request behind no other takes the short way: `_pieces` is its body until it is
    whole.
    """

    config: ServiceConfig
    on_lost: Callable[[], None] | None = None
    is_lost = False
    reader: Reader
    fast_path: FastPath | None = None
    _active: RequestResponseCycle | None = None
    _pieces: list[bytes] | None = None
    _named: ModelRef | None = None
    _unparsed_body_bytes = 0
    _short_headers: Headers
    _began = 0.0
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
        self.reader = Reader(self)
        transport.set_protocol(self.reader)
        self.config.reaper.add(self)
        self.fast_path = getattr(self.app, "fast_path", None)
        self._reading_since = self.loop.time()
        if len(self.connections) > self.config.settings.max_connections:
            self.refuse(503, "Too many connections are open; try again in 1 second.", b"retry-after: 1\r\n")

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever waits for an answer, or has one, that nobody reads it."""
        self.is_lost = True
        self._take_asgi()
        del self.reader  # a circle
        self.config.reaper.discard(self)
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
        while data:
            data = self._take_unparsed_body(data) if self._unparsed_body_bytes else self._feed(data)
        if self._in_headers:
            self._header_bytes += self._chunk_bytes if within else 0  # of the first piece, what was understood counts
            if self._header_bytes > self.config.settings.max_header_bytes or self._are_long():
                self._refuse_headers()

    def _feed(self, data: bytes) -> bytes:
        """Let the parser read; return what it left, which is what stands behind a wish for another protocol."""
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:  # ignored, as RFC 9110, 7.8, allows: all is HTTP/1.1 here
            self._make_parser()
            return data[upgrade.args[0] :]
        except httptools.HttpParserError:
            self.send_400_response("Invalid HTTP request received.")
        return b""

    def _take_unparsed_body(self, data: bytes) -> bytes:
        """Take of a body what the parser left; return what stands behind it."""
        piece, rest = data[: self._unparsed_body_bytes], data[self._unparsed_body_bytes :]
        self._unparsed_body_bytes -= len(piece)
        self.on_body(piece)
        if not self._unparsed_body_bytes:
            self.body_received()
        return rest

    def on_headers_complete(self) -> None:
        """Start the request."""
        self._in_headers = False
        self._unparsed_body_bytes = (
            self._declared_length() if self.parser.should_upgrade() else 0
        )  # its body the parser will not read
        if self._chunk_bytes + self._header_bytes > self.config.settings.max_header_bytes and self._are_long():
            self._refuse_headers()
            return
        self._named = self._match_fast_path()
        if self._named is not None:
            self._pieces, self._began = [], perf_counter()
        else:
            self._start_asgi()

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body."""
        if self._pieces is not None:
            self._pieces.append(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Stop the clock; a request that has come whole goes the short way if it may."""
        if self._unparsed_body_bytes:  # the parser takes a wish for another protocol for the end
            return
        self._reading_since = None
        if self._pieces is None:
            super().on_message_complete()
            return
        body, self._pieces = b"".join(self._pieces), None
        keep_alive = self.parser.should_keep_alive() and not self._is_ending
        self.cycle = self._active = ShortCycle(self, keep_alive)  # type: ignore[assignment]
        assert self._named is not None  # as long as there are pieces
        assert self.fast_path is not None
        self.fast_path.take(self.url, self._short_headers, body, self._named, self, self._began)

    def body_received(self) -> None:
        """Go on behind a body that the parser has not seen."""
        self._unparsed_body_bytes = 0
        self._make_parser()
        self.on_message_complete()

    def _make_parser(self) -> None:
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn has it

    def _declared_length(self) -> int:
        """Return how long the body of the request is said to be."""
        length = dict(self.headers).get(b"content-length", b"")
        return int(length) if length.isdigit() else 0

    def on_response_complete(self) -> None:
        """Begin to wait for the next request; the reaper ends what waits too long, so uvicorn's timer is left out."""
        self._idle_since = self.loop.time()
        if self.pipeline or self.flow.read_paused:
            super().on_response_complete()
            self._unset_keepalive_if_required()
        else:
            self.server_state.total_requests += 1

    def answer(self, status: int, fields: Fields, pieces: Sequence[Piece]) -> None:
        """Answer the request that took the short way."""
        if self._active is not None:
            write_whole(self._active, status, fields, pieces)

    async def answer_slowly(self, status: int, fields: Fields, pieces: Sequence[Piece]) -> None:
        """Answer it with much, as the client reads."""
        if self._active is not None:
            await write_slowly(self._active, status, fields, pieces)

    def _match_fast_path(self) -> ModelRef | None:
        """Return whom the request that is being read asks, if it may go the short way."""
        if self.fast_path is None or self.parser.get_method() != b"POST" or self.parser.get_http_version() != "1.1":
            return None
        before: RequestResponseCycle | None = self.cycle
        if self.flow.write_paused or (before is not None and not before.response_complete):
            return None
        self._short_headers = dict(self.headers)
        if len(self._short_headers) < len(self.headers):  # which of two counts, the long way asks
            return None
        return self.fast_path.match(self.url, self._short_headers)

    def _start_asgi(self) -> None:
        super().on_headers_complete()  # the request's task has not begun to run yet
        self.scope[CYCLE] = self.cycle  # type: ignore[literal-required]
        if self._declared_length() >= SMALLEST_DIRECT:
            self.flow.pause_reading()  # until somebody reads the body, and says where it shall lie
        if self._is_ending:
            self.cycle.keep_alive = False

    def _take_asgi(self) -> None:
        """Let a request go the long way whose rest nobody knows if it will come: it must be waited for, or let go."""
        if self._pieces is not None:
            pieces, self._pieces = self._pieces, None
            self._start_asgi()
            for piece in pieces:
                self.on_body(piece)

    def shutdown(self) -> None:
        """End the connection behind the request that it has, or behind one that comes within a moment."""
        self._is_ending = True
        self._take_asgi()
        if self._active is None or self._active.response_complete:
            self.loop.call_later(_CLOSE_GRACE_S, super().shutdown)
        else:
            super().shutdown()

    def resume_writing(self) -> None:
        """Note that the client reads: behind this, more may wait than before."""
        self._stuck = (0, 0.0)
        super().resume_writing()

    def look(self, now: float) -> None:
        """End a connection that is too slow to send, to read, or to do anything."""
        patience = self.config.settings.receive_timeout_s
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
        elif self._idle_since is not None and now - self._idle_since > self.timeout_keep_alive + _REAP_EVERY_S:
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Answer a request that cannot be parsed."""
        self.refuse(400, msg)

    def refuse(self, status: int, text: str, header: bytes = b"") -> None:
        """Answer the request that is being read, and close the connection; never amid another one's answer."""
        active = self._active
        if self.transport.is_closing():
            return
        started, self._pieces = self._pieces is None, None
        if active is not None and not active.response_complete:
            if not active.more_body or self.pipeline:  # it is another one that cannot be read: answer this one, and end
                active.keep_alive = False
                self.pipeline.clear()
                self.flow.pause_reading()
                return
            started, active.disconnected = active.response_started, True
            active.message_event.set()
        else:
            started &= active is not None and not self._in_headers and self._reading_since is not None
        if not started:
            body = json.dumps({"error": text}).encode()
            head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n" % len(body)
            self.transport.write(b"".join([STATUS_LINE[status], head, header, b"\r\n", body]))
        self.transport.close()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._active = cycle
        super()._start_asgi_task(cycle, app)

    def _are_long(self) -> bool:
        return sum(len(name) + len(value) + 4 for name, value in self.headers) > self.config.settings.max_header_bytes

    def _refuse_headers(self) -> None:
        self._in_headers = True
        self.refuse(431, f"The headers are over the limit of {self.config.settings.max_header_bytes:,} bytes.")


class ConnectionReaper:
    """Looks every second for connections that are too slow, for as long as there are any."""

    def __init__(self) -> None:
        self._connections: set[ServiceProtocol] = set()
        self._is_due = False

    def add(self, connection: ServiceProtocol) -> None:
        """Watch a connection."""
        self._connections.add(connection)
        if not self._is_due:
            self._is_due = True
            connection.loop.call_later(_REAP_EVERY_S, self._look, connection.loop)

    def discard(self, connection: ServiceProtocol) -> None:
        """Forget a connection."""
        self._connections.discard(connection)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        for connection in list(self._connections):
            connection.look(now)
        self._is_due = bool(self._connections)
        if self._is_due:
            loop.call_later(_REAP_EVERY_S, self._look, loop)
