"""What a request may know of its connection: whether the client is still there, and a short way to answer it.

Only our own HTTP protocol (see `service.server`) puts these into the ASGI scope; without them all works through ASGI.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

CONNECTION = "normfold.connection"
"""Key of the `Connection` in the ASGI scope."""

CYCLE = "normfold.cycle"
"""Key, in the ASGI scope, of what uvicorn keeps of one request and its answer."""


class Connection(Protocol):
    """An HTTP connection."""

    on_lost: Callable[[], None] | None
    """Called when the client leaves."""


def write_answer(scope: Scope, status: int, fields: Sequence[tuple[bytes, bytes]], body: bytes) -> bool:
    """Write a whole answer in one piece; through ASGI's two messages uvicorn takes twice as long.

    Returns:
        False if ASGI's way must be taken: another server, or a client that reads too slowly.
    """
    cycle: RequestResponseCycle | None = scope.pop(CYCLE, None)  # it holds the scope: a circle that would stay
    if cycle is None or cycle.flow.write_paused:
        return False
    if cycle.disconnected:
        return True
    pieces = [STATUS_LINE[status]]
    for name, value in (*cycle.default_headers, *fields):
        pieces += (name, b": ", value, b"\r\n")
    if not cycle.keep_alive:
        pieces.append(b"connection: close\r\n")
    pieces += (b"\r\n", body)
    cycle.response_started = cycle.response_complete = True
    cycle.waiting_for_100_continue = False
    cycle.transport.write(b"".join(pieces))
    cycle.message_event.set()
    if not cycle.keep_alive:
        cycle.transport.close()
    cycle.on_response()
    return True
