"""HTTP/1.1 on one connection: the fast path or ASGI for each request, pipelining, timeouts, shutdown.

Pipelined requests are served one after the other, in order. A request that never reaches the application gets its
response here, in the form of every error: malformed (400), too slow (408), headers over the limit (431), too many
connections (503).
"""

from __future__ import annotations

import asyncio
from collections import deque
from time import perf_counter
from typing import Any

import uvicorn
from starlette.types import Scope
from uvicorn.server import ServerState

from normfold.contract.errors import NormfoldError
from normfold.service.codec.headers import Headers, declared_length
from normfold.service.errors import ConnectionLimitError, ReceiveTimeoutError, RequestError
from normfold.service.http import timeouts
from normfold.service.http.asgi_cycle import CYCLE, AsgiCycle, make_scope
from normfold.service.http.cycle import RequestCycle, format_error
from normfold.service.http.flow_control import FlowControl
from normfold.service.http.request_parser import RequestParser
from normfold.service.http.timeouts import ConnectionReaper, ConnectionTimeouts, Timeout
from normfold.service.http.zero_copy_body import MIN_ZERO_COPY_BYTES, ZeroCopyReader
from normfold.service.inference.fast_path import FastPath
from normfold.service.inference.model_ref import ModelRef
from normfold.service.network.transport_info import describe_connection, is_sent_to_client
from normfold.service.settings import Settings


class HttpProtocol(ZeroCopyReader):
    """HTTP/1.1 on one connection; uvicorn's server makes one for each.

    Args:
        settings: limits and timeouts.
        reaper: checks the timeouts of all connections.
        config: uvicorn's, with the application.
        server_state: uvicorn's; its server waits for `connections` and `tasks` when it stops, and sets the date.
        app_state: of the application's lifespan.
    """

    transport: asyncio.Transport
    flow: FlowControl
    _parser: RequestParser
    _timeouts: ConnectionTimeouts
    _received: RequestCycle | None = None
    """The last request whose headers are complete."""
    _active: RequestCycle | None = None
    """The last request that was started; those after it are in the pipeline."""
    _fast_body: list[bytes] | None = None
    """The body, as far as it has arrived, of a request for the fast path."""
    _peer: str
    """Address of the client, or of the proxy in front; empty for a Unix socket."""
    _fast_reference: ModelRef
    _fast_headers: Headers
    _headers_at = 0.0
    _is_stopping = False
    _is_sent = False

    def __init__(
        self,
        settings: Settings,
        reaper: ConnectionReaper,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._settings, self._reaper = settings, reaper
        self._app, self.server_state, self._app_state = config.loaded_app, server_state, app_state
        self._fast_path: FastPath | None = getattr(config.loaded_app, "fast_path", None)
        self.loop = _loop or asyncio.get_running_loop()
        self._pipeline: deque[tuple[AsgiCycle, Scope]] = deque()

    # Called by asyncio

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to receive requests, unless too many connections are open."""
        self.transport, self.flow = transport, FlowControl(transport)
        self._parser = RequestParser(self, self._settings.max_header_bytes)
        self._timeouts = ConnectionTimeouts(self._settings.receive_timeout_s, self.loop.time())
        self._addresses = describe_connection(transport)
        self._peer = client[0] if (client := self._addresses["client"]) else ""
        self._reaper.add(self)
        self.server_state.connections.add(self)  # type: ignore[arg-type]  # typed as a protocol of uvicorn's
        if len(self.server_state.connections) > self._settings.max_connections:
            self._reject(ConnectionLimitError())

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the connection's requests that the client has disconnected."""
        self._move_to_asgi()
        self._reaper.discard(self)
        self.server_state.connections.discard(self)
        for cycle in (self._active, *(cycle for cycle, _ in self._pipeline)):
            if cycle is not None:
                cycle.disconnect()
        self.flow.resume_writing()
        self._parser.close()
        self._active = self._received = None
        if exc is None:
            self.transport.close()

    def data_received(self, data: bytes) -> None:
        """Parse bytes, as long as they are requests."""
        try:
            self._parser.feed(data)
        except RequestError as error:
            self._reject(error)

    def body_received(self) -> None:
        """Go on after a body that was read past the parser."""
        self._parser.skip_body()

    def pause_writing(self) -> None:
        """Note that the transport's buffer is full."""
        self.flow.pause_writing()

    def resume_writing(self) -> None:
        """Note that the client reads its response."""
        self._timeouts.note_read()
        self.flow.resume_writing()

    # Called by the parser

    def request_begun(self) -> None:
        """Begin the receive timeout."""
        self._timeouts.receiving_since = self.loop.time()

    def headers_received(self) -> None:
        """Choose the fast path or ASGI."""
        if (reference := self._match_fast_path()) is None:
            self._start_asgi()
        else:
            self._fast_reference, self._fast_body, self._headers_at = reference, [], perf_counter()

    def body_chunk_received(self, chunk: bytes) -> None:
        """Take a part of the body."""
        if self._fast_body is not None:
            self._fast_body.append(chunk)
        elif isinstance(self._received, AsgiCycle):
            self._received.feed_body(chunk)

    def request_received(self) -> None:
        """End the receive timeout, and start a request on the fast path."""
        self._timeouts.receiving_since = None
        if self._fast_body is None:
            if isinstance(self._received, AsgiCycle):
                self._received.end_body()
            return
        body, self._fast_body = b"".join(self._fast_body), None
        self._received = self._active = cycle = RequestCycle(self, self._parser.keep_alive and not self._is_stopping)
        assert self._fast_path is not None  # it has matched
        self._fast_path.start(
            self._parser.url, self._fast_headers, self._peer, body, self._fast_reference, cycle, self._headers_at
        )

    # Called by the request's cycle

    def response_completed(self) -> None:
        """Serve the next pipelined request, or wait for one."""
        self._timeouts.idle_since = self.loop.time()
        if (self._pipeline or self.flow.is_reading_paused) and not self.transport.is_closing():
            self.flow.resume_reading()
            if self._pipeline:
                self._start_task(*self._pipeline.popleft())

    # Called by uvicorn's server and by the reaper

    def shutdown(self) -> None:
        """Close the connection after the request that it has, or that it brings within the grace period."""
        self._is_stopping = True
        self._move_to_asgi()
        if self._active is None or self._active.response_complete:
            self.loop.call_later(timeouts.CLOSE_GRACE_S, self._close_after_response)
        else:
            self._close_after_response()

    def check_timeouts(self, now: float) -> None:
        """Close the connection if it has passed a timeout."""
        if self.transport.is_closing():
            self._end_closing(now)
            return
        active = self._active
        is_serving = active is not None and not active.response_complete and not active.more_body
        unread_bytes = self.transport.get_write_buffer_size()
        match self._timeouts.find_passed(now, unread_bytes, is_serving or bool(self._pipeline)):
            case Timeout.WRITE:
                self.transport.abort()
            case Timeout.RECEIVE:
                self._reject(ReceiveTimeoutError(self._settings.receive_timeout_s))
            case Timeout.KEEP_ALIVE:
                self.transport.close()

    def _end_closing(self, now: float) -> None:
        """End a connection that is closing and whose client has stopped reading, or has everything.

        With TLS, most clients never confirm that it is closed. There, the second check in a row decides: what the first
        one sees may be in no buffer yet.
        """
        if self._timeouts.is_unread(now, self.transport.get_write_buffer_size()):
            self.transport.abort()
            return
        is_sent, self._is_sent = self._is_sent, is_sent_to_client(self.transport)
        if is_sent and self._is_sent:
            self.transport.abort()

    def _close_after_response(self) -> None:
        if self._received is None or self._received.response_complete:
            self.transport.close()
        else:
            self._received.keep_alive = False

    def _match_fast_path(self) -> ModelRef | None:
        """Return the model of a request that may take the fast path: no other one of the connection is served."""
        parser, before = self._parser, self._received
        if self._fast_path is None or parser.method != b"POST" or parser.version != "1.1":
            return None
        if self.flow.is_writing_paused or (before is not None and not before.response_complete):
            return None
        self._fast_headers = dict(parser.headers)
        if len(self._fast_headers) < len(parser.headers):  # a header is given twice: the middleware decides
            return None
        return self._fast_path.match(parser.url, self._fast_headers, self._peer)

    def _start_asgi(self) -> None:
        """Start a request through ASGI, or queue it after those that have no response yet."""
        parser, before, headers = self._parser, self._received, dict(self._parser.headers)
        keep_alive = parser.version != "1.0" and parser.keep_alive and not self._is_stopping
        waits_for_continue = headers.get(b"expect", b"").lower() == b"100-continue"
        scope = make_scope(parser, self._addresses, self._app_state)
        scope[CYCLE] = self._received = cycle = AsgiCycle(self, keep_alive, scope["method"], waits_for_continue)
        if before is None or before.response_complete:
            self._start_task(cycle, scope)
        else:
            self.flow.pause_reading()
            self._pipeline.append((cycle, scope))
        if (declared_length(headers) or 0) >= MIN_ZERO_COPY_BYTES:
            self.flow.pause_reading()  # until the application reads the body, past the parser

    def _start_task(self, cycle: AsgiCycle, scope: Scope) -> None:
        self._active = cycle
        task = self.loop.create_task(cycle.run(self._app, scope))
        self.server_state.tasks.add(task)
        task.add_done_callback(self.server_state.tasks.discard)

    def _move_to_asgi(self) -> None:
        """Serve a request of the fast path through ASGI, if its body may never be complete: a task can be cancelled."""
        if self._fast_body is not None:
            chunks, self._fast_body = self._fast_body, None
            self._start_asgi()
            for chunk in chunks:
                self.body_chunk_received(chunk)

    def _reject(self, error: NormfoldError) -> None:
        """Answer the request that is being received with an error, and close the connection.

        If another request is being served, its response is the last one; a response that has begun is cut off.
        """
        if self.transport.is_closing():
            return
        active, self._fast_body, is_fast = self._active, None, self._fast_body is not None
        if active is not None and not active.response_complete:
            if not active.more_body or self._pipeline:
                active.keep_alive = False
                self._pipeline.clear()
                self.flow.pause_reading()
                return
            has_response = active.response_started
            active.disconnect()
        else:  # the rest of a body whose request has its response already
            is_receiving_body = self._timeouts.receiving_since is not None and not self._parser.is_in_headers
            has_response = active is not None and is_receiving_body and not is_fast
        if not has_response:
            self.transport.write(format_error(error))
        self.transport.close()
