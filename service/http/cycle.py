"""One request and its response on a connection; the response is written past ASGI."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from http import HTTPStatus
from typing import Protocol

from uvicorn.server import ServerState

from normfold.contract.errors import NormfoldError
from normfold.service.codec.binary_tensors import Piece
from normfold.service.codec.headers import HeaderFields
from normfold.service.error_responses import describe_error, describe_fault
from normfold.service.errors import ClientDisconnectedError
from normfold.service.http.flow_control import FlowControl

MAX_WRITE_BYTES = 256 * 1024
"""A longer response is written in chunks of this size, each once the client has read the one before."""

CLOSE = (b"connection", b"close")
"""The header of a response after which the server closes the connection."""


def _status_line(status: int) -> bytes:
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    return f"HTTP/1.1 {status} {phrase}\r\n".encode()


_STATUS_LINES = {status: _status_line(status) for status in range(100, 600)}


def format_head(status: int, headers: HeaderFields) -> list[bytes]:
    """Return the status line and the headers of a response, in pieces."""
    pieces = [_STATUS_LINES[status]]
    for name, value in headers:
        pieces += (name, b": ", value, b"\r\n")
    pieces.append(b"\r\n")
    return pieces


def format_error(error: NormfoldError) -> bytes:
    """Return the response to an error that ends a connection."""
    status, body, headers = describe_error(error) or describe_fault()
    length = (b"content-length", b"%d" % len(body))
    return b"".join([*format_head(status, [(b"content-type", b"application/json"), length, *headers]), body])


class Connection(Protocol):
    """The connection of a cycle, as `service.http.protocol` implements it."""

    transport: asyncio.Transport
    flow: FlowControl
    server_state: ServerState

    def response_completed(self) -> None:
        """Go on with the next request."""

    def receive_into(self, body: memoryview) -> None:
        """Read the rest of a body past the parser."""


class RequestCycle:
    """A request whose body is complete, and its response.

    Attributes:
        keep_alive: whether the connection stays open after the response.
        more_body: whether a part of the body has not arrived yet.
        is_disconnected: whether the client has disconnected before the response was complete.
        on_disconnect: called when it does.
        waits_for_continue: whether the client expects `100 Continue` before it sends its body.
        response_started: whether the head of the response was written.
        response_complete: whether the whole response was written.
    """

    more_body = False
    is_disconnected = False
    on_disconnect: Callable[[], None] | None = None
    waits_for_continue = False
    response_started = False
    response_complete = False

    def __init__(self, connection: Connection, keep_alive: bool) -> None:
        self.connection, self.keep_alive = connection, keep_alive

    def disconnect(self) -> None:
        """Note that the client has disconnected, unless its response is complete."""
        if not self.response_complete:
            self.is_disconnected = True
            if self.on_disconnect is not None:
                self.on_disconnect()

    def write_response(self, status: int, headers: HeaderFields, body: Sequence[Piece]) -> None:
        """Write a whole response at once; nothing if the client has disconnected.

        If a part of another response is written already, the connection is closed instead.
        """
        if self.response_started:
            self.connection.transport.close()
        elif not self.is_disconnected:
            self.connection.transport.write(b"".join([*self._head(status, headers), *body]))
            self._complete()

    async def write_chunks(self, status: int, headers: HeaderFields, body: Sequence[Piece]) -> None:
        """Write a large response in chunks, each once the client has read the one before.

        Raises:
            ClientDisconnectedError: the client disconnected before its end.
        """
        connection = self.connection
        await connection.flow.drain()
        if not self.is_disconnected:
            connection.transport.write(b"".join(self._head(status, headers)))
            for chunk in split_chunks(body):
                connection.transport.write(chunk)
                await connection.flow.drain()
                if self.is_disconnected:
                    break
        if self.is_disconnected:
            raise ClientDisconnectedError
        self._complete()

    def _head(self, status: int, headers: HeaderFields) -> list[bytes]:
        """Return the head of the response in pieces; headers that close the connection are obeyed."""
        self.response_started = True
        if self.waits_for_continue:  # the client may still send its body, or not: the next bytes are ambiguous
            self.keep_alive = self.waits_for_continue = False
        if status >= 400 and CLOSE in headers:
            self.keep_alive = False
        elif not self.keep_alive:
            headers = [*headers, CLOSE]
        return format_head(status, [*self.connection.server_state.default_headers, *headers])

    def _complete(self) -> None:
        self.response_complete = True
        if not self.keep_alive:
            self.connection.transport.close()
        self.connection.response_completed()


def split_chunks(body: Sequence[Piece]) -> Iterator[bytes]:
    """Yield a body in chunks of at most MAX_WRITE_BYTES, each copied only when it is next.

    So a body whose chunks are written one by one is held in memory once, not twice.
    """
    pending: list[memoryview] = []
    size = 0
    for piece in body:
        for start in range(0, len(piece), MAX_WRITE_BYTES):
            part = memoryview(piece)[start : start + MAX_WRITE_BYTES]
            if size + len(part) > MAX_WRITE_BYTES:
                yield b"".join(pending)
                pending, size = [], 0
            pending.append(part)
            size += len(part)
    yield b"".join(pending)
