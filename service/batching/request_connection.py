"""The connection of a queued request, as the queue uses it: a request whose client disconnects is cancelled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class RequestConnection(Protocol):
    """The connection on which the client waits for the response to one request."""

    is_disconnected: bool
    """Whether the client has disconnected."""

    on_disconnect: Callable[[], None] | None
    """Called when the client disconnects before its response is complete."""
