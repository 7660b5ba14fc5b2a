"""What a request may know of its connection: whether the client is still there, and a short way to answer it.

Only our own HTTP protocol (see `service.server`) puts these into the ASGI scope; without them all works through ASGI.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from starlette.requests import ClientDisconnect
from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from service.raw import Piece

CONNECTION = "normfold.connection"
"""Key of the `Connection` in the ASGI scope."""

CYCLE = "normfold.cycle"
"""Key, in the ASGI scope, of what uvicorn keeps of one request and its answer."""


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


def waits_for_a_word(scope: Scope) -> bool:
    """Whether the client expects `100 Continue` before it sends its body, and has not got it."""
    cycle: RequestResponseCycle | None = scope.get(CYCLE)
    return cycle is not None and cycle.waiting_for_100_continue


def body_at_hand(scope: Scope) -> bytes | None:
    """Return a body that has come whole already; None if it has not, or if ASGI's way must be taken."""
    cycle: RequestResponseCycle | None = scope.get(CYCLE)
    return None if cycle is None or cycle.more_body else bytes(cycle.body)


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


def write_answer(scope: Scope, status: int, fields: Sequence[tuple[bytes, bytes]], body: Sequence[Piece]) -> bool:
    """Write a whole answer at once; through ASGI's messages uvicorn takes twice as long.

    Returns:
        False if ASGI's way must be taken: another server, or a client that reads too slowly.
    """
    cycle: RequestResponseCycle | None = scope.pop(CYCLE, None)  # it holds the scope: a circle that would stay
    if cycle is None or cycle.flow.write_paused:
        return False
    if cycle.disconnected:
        return True
    pieces: list[Piece] = [STATUS_LINE[status]]
    for name, value in (*cycle.default_headers, *fields):
        pieces += (name, b": ", value, b"\r\n")
    if not cycle.keep_alive:
        pieces.append(b"connection: close\r\n")
    pieces += (b"\r\n", *body)
    cycle.response_started = cycle.response_complete = True
    cycle.waiting_for_100_continue = False
    cycle.transport.write(b"".join(pieces))
    cycle.message_event.set()
    if not cycle.keep_alive:
        cycle.transport.close()
    cycle.on_response()
    return True


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
