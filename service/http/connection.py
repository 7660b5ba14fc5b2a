"""What a request may know of its connection: whether the client is still there, and a short way to answer it.

Only our own HTTP protocol (see `service.http.protocol`) puts these into the ASGI scope; without them all works through
ASGI.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from starlette.requests import ClientDisconnect
from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from normfold.service.codec.binary_tensors import Piece
from normfold.service.http.zero_copy_body import SMALLEST_DIRECT, receive_directly

CONNECTION = "normfold.connection"
"""Key of the `Connection` in the ASGI scope."""

CYCLE = "normfold.cycle"
"""Key, in the ASGI scope, of what uvicorn keeps of one request and its answer."""


THROUGH_ASGI = "normfold.through_asgi"
"""Key, in the ASGI scope, of a request whose answer must go through ASGI's messages: something adds to them."""


LARGEST_JOINED = 256 * 1024
"""Bytes of an answer that is put together before it is written; a larger one is written so much at a time."""


class Connection(Protocol):
    """An HTTP connection."""

    on_lost: Callable[[], None] | None
    """Called when the client leaves."""

    is_lost: bool
    """Whether it has left."""


class _Pieces:
    """Stands in for uvicorn's buffer of a body: keeps the pieces, never asks to pause, and copies nothing."""

    def __init__(self, first: bytes) -> None:
        self.pieces, self.size = [first], len(first)

    def __iadd__(self, piece: bytes) -> _Pieces:
        self.pieces.append(piece)
        self.size += len(piece)
        return self

    def __len__(self) -> int:
        return 0


class ShortCycle:
    """What uvicorn keeps of a request and its answer, as far as the short way has any of it."""

    __slots__ = (
        "default_headers",
        "disconnected",
        "flow",
        "keep_alive",
        "on_response",
        "response_complete",
        "response_started",
        "transport",
        "waiting_for_100_continue",
    )
    more_body = False
    body = b""

    def __init__(self, connection: HttpToolsProtocol, keep_alive: bool) -> None:
        self.transport, self.flow = connection.transport, connection.flow
        self.default_headers = connection.server_state.default_headers
        self.on_response = connection.on_response_complete
        self.keep_alive = keep_alive
        self.disconnected = self.response_started = self.response_complete = self.waiting_for_100_continue = False

    @property
    def message_event(self) -> ShortCycle:
        """Nobody waits for a message."""
        return self

    def set(self) -> None:
        """Wake nobody."""


def waits_for_continue(scope: Scope) -> bool:
    """Whether the client expects `100 Continue` before it sends its body, and has not got it."""
    cycle: RequestResponseCycle | None = scope.get(CYCLE)
    return cycle is not None and cycle.waiting_for_100_continue


def body_at_hand(scope: Scope) -> bytes | None:
    """Return a body that has come whole already; None if it has not, or if ASGI's way must be taken."""
    cycle: RequestResponseCycle | None = scope.get(CYCLE)
    return None if cycle is None or cycle.more_body else bytes(cycle.body)


async def read_directly(scope: Scope, limit: int, padding: int) -> memoryview | None:
    """Read a large body of declared length, of which some is still to come.

    Returns:
        The body, with `padding` free bytes before it; or None if it is read another way.

    Raises:
        ClientDisconnect: the client left before the end.
    """
    cycle: RequestResponseCycle | None = scope.get(CYCLE)
    connection = scope.get(CONNECTION)
    headers = dict(scope["headers"])
    size = headers.get(b"content-length", b"")
    if cycle is None or connection is None or not size.isdigit() or b"transfer-encoding" in headers:
        return None
    if not SMALLEST_DIRECT <= int(size) - len(cycle.body) <= limit or cycle.waiting_for_100_continue:
        return None
    return await receive_directly(connection, cycle, int(size), padding)


async def read_pieces(scope: Scope, limit: int) -> list[bytes] | None:
    """Read a body as the pieces that came; through ASGI each of them is copied three times.

    Returns:
        The pieces, more than `limit` bytes if so many came; or None if ASGI's way must be taken: another server, or
        a client that waits for a word before it sends.

    Raises:
        ClientDisconnect: the client left before the end.
    """
    cycle: RequestResponseCycle | None = scope.get(CYCLE)
    if cycle is None or cycle.waiting_for_100_continue:
        return None
    if _is_whole(cycle):
        return [bytes(cycle.body)]
    collected = _Pieces(bytes(cycle.body))
    cycle.body = collected  # type: ignore[assignment]
    cycle.flow.resume_reading()
    while collected.size <= limit and not _is_whole(cycle):
        await cycle.message_event.wait()
        cycle.message_event.clear()
        if cycle.disconnected:
            raise ClientDisconnect
    cycle.body = bytearray()
    return collected.pieces


def _is_whole(cycle: RequestResponseCycle) -> bool:
    return not cycle.more_body


def write_response(scope: Scope, status: int, fields: Sequence[tuple[bytes, bytes]], body: Sequence[Piece]) -> bool:
    """Write a whole answer at once; through ASGI's messages uvicorn takes twice as long.

    Returns:
        False if ASGI's way must be taken: another server, a client that reads too slowly, something that adds to it.
    """
    cycle: RequestResponseCycle | None = scope.pop(CYCLE, None)  # it holds the scope: a circle that would stay
    if cycle is None or cycle.flow.write_paused or THROUGH_ASGI in scope:
        return False
    write_whole(cycle, status, fields, body)
    return True


def write_whole(
    cycle: RequestResponseCycle, status: int, fields: Sequence[tuple[bytes, bytes]], body: Sequence[Piece]
) -> None:
    """Write a whole answer; nothing if the client has left."""
    if cycle.disconnected:
        return
    cycle.transport.write(b"".join([*_head(cycle, status, fields), *body]))
    _complete(cycle)


async def write_slowly(
    cycle: RequestResponseCycle, status: int, fields: Sequence[tuple[bytes, bytes]], body: Sequence[Piece]
) -> None:
    """Write a large answer, each chunk when the client has read the one before it.

    Raises:
        ClientDisconnect: it left before the end.
    """
    if not cycle.disconnected:
        cycle.transport.write(b"".join(_head(cycle, status, fields)))
        for chunk in chunks(body):
            cycle.transport.write(chunk)
            await cycle.flow.drain()
            if cycle.disconnected:
                break
    if cycle.disconnected:
        raise ClientDisconnect
    _complete(cycle)


def _head(cycle: RequestResponseCycle, status: int, fields: Sequence[tuple[bytes, bytes]]) -> list[bytes]:
    cycle.response_started = True
    cycle.waiting_for_100_continue = False
    pieces = [STATUS_LINE[status]]
    for name, value in (*cycle.default_headers, *fields):
        pieces += (name, b": ", value, b"\r\n")
    if not cycle.keep_alive:
        pieces.append(b"connection: close\r\n")
    pieces.append(b"\r\n")
    return pieces


def _complete(cycle: RequestResponseCycle) -> None:
    cycle.response_complete = True
    cycle.message_event.set()
    if not cycle.keep_alive:
        cycle.transport.close()
    cycle.on_response()


def chunks(body: Sequence[Piece]) -> Iterator[bytes]:
    """Yield a body in chunks of at most LARGEST_JOINED bytes, each made when its turn comes.

    Whoever writes a chunk when the client has read the one before it holds a large body once, not twice.
    """
    waiting: list[memoryview] = []
    size = 0
    for piece in body:
        for start in range(0, len(piece), LARGEST_JOINED):
            part = memoryview(piece)[start : start + LARGEST_JOINED]
            if size + len(part) > LARGEST_JOINED:
                yield b"".join(waiting)
                waiting, size = [], 0
            waiting.append(part)
            size += len(part)
    yield b"".join(waiting)
