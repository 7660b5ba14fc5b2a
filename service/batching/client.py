"""The client of a queued request, as far as the queue must know it: a request without a client is cancelled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class Client(Protocol):
    """The client that waits for the response to one request."""

    is_disconnected: bool
    """Whether the client has disconnected."""

    on_disconnect: Callable[[], None] | None
    """Called when the client disconnects before its response is complete."""
