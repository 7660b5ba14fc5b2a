"""The HTTP server around the application: uvicorn, told to answer and to end as the rest of the service does."""

from __future__ import annotations

import json

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

SHUTDOWN_TIMEOUT_S = 20
"""How long requests in flight may go on at the end; a client that sent half of one would keep the process for ever.

With what the workers get after it, this is less than the 30 s after which container runtimes kill.
"""


class JsonErrorProtocol(H11Protocol):
    """HTTP/1.1, whose answer to what is no HTTP has the form that all errors have."""

    def send_400_response(self, msg: str) -> None:
        """Answer a request that cannot be parsed, unless an answer to it is on its way, and close the connection."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.close()
            return
        body = json.dumps({"error": msg}).encode()
        headers = [
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(body))),
            ("Connection", "close"),
        ]
        events: list[h11.Event] = [h11.Response(status_code=400, headers=headers), h11.Data(body), h11.EndOfMessage()]
        for event in events:
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


def make_server(app: ASGIApp) -> uvicorn.Server:
    """Return a server for sockets that are open already; it logs through the service's own logger."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            http=JsonErrorProtocol,
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=SHUTDOWN_TIMEOUT_S,
        )
    )
