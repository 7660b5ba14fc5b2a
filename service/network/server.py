"""uvicorn's server, which listens on several kinds of sockets: TCP with TLS or without, and Unix sockets."""

from __future__ import annotations

import asyncio
import socket
from functools import partial
from typing import Any

import uvicorn

_MAX_HANDSHAKE_S = 10.0
"""Seconds within which a client ends the handshake of TLS; until then its connection is not counted."""


class Config(uvicorn.Config):
    """uvicorn's configuration of a server.

    Attributes:
        receive_timeout_s: seconds within which a client reads the last response of a connection with TLS.
    """

    receive_timeout_s: float


class Server(uvicorn.Server):
    """Serves an application on sockets that are open already.

    A Unix socket has no TLS: the permissions of its file guard it, and nothing on it leaves the machine.
    """

    config: Config

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the application, then accept connections."""
        await super().startup(sockets=[])
        for listener in sockets or ():
            self.servers.append(await self._accept(listener))

    async def _accept(self, listener: socket.socket) -> asyncio.Server:
        loop, config = asyncio.get_running_loop(), self.config
        make_protocol: Any = config.http_protocol_class
        protocol = partial(make_protocol, config=config, server_state=self.server_state, app_state=self.lifespan.state)
        if listener.family == socket.AF_UNIX:
            return await loop.create_unix_server(protocol, sock=listener, backlog=config.backlog)
        if config.ssl is None:
            return await loop.create_server(protocol, sock=listener, backlog=config.backlog)
        return await loop.create_server(
            protocol,
            sock=listener,
            backlog=config.backlog,
            ssl=config.ssl,
            ssl_handshake_timeout=min(_MAX_HANDSHAKE_S, config.receive_timeout_s),
            ssl_shutdown_timeout=config.receive_timeout_s,
        )
