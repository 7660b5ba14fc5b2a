"""Several gRPC servers on one port of one process, since each hands over one call at a time.

A server of grpc.aio requests its next call when the event loop has had the one before; the calls of 64 connections come
singly, run in batches of one, and find the processor's caches cold. Of several servers, each hands over a call at once.
The kernel gives each connection to one of them (SO_REUSEPORT).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import grpc

SERVERS = 16
"""With 1, 8, 16, 32 and 64 of them, a small request of 64 connections took 0.52, 0.37, 0.33, 0.33 and 0.37 ms of
processor time, where a bare echo with one took 0.24 to 0.31 (h2load, 2 cores, other work beside it, 2026-11-27)."""

Options = Sequence[tuple[str, int]]


class Listeners:
    """The gRPC servers of a process, which listen on one port.

    Args:
        handlers: of the calls.
        options: of each server.
    """

    def __init__(self, handlers: Sequence[grpc.GenericRpcHandler], options: Options) -> None:
        shared = [*options, ("grpc.so_reuseport", 1)]
        self.servers = [grpc.aio.server(handlers=handlers, options=shared) for _ in range(SERVERS)]

    def bind(self, host: str, port: int) -> int:
        """Bind every server to a port; 0 chooses a free one, which is returned.

        Raises:
            RuntimeError: the port is in use.
        """
        for server in self.servers:
            port = server.add_insecure_port(f"{host}:{port}")
        return port

    async def start(self) -> None:
        """Begin to serve."""
        for server in self.servers:
            await server.start()

    async def stop(self, grace_s: float) -> None:
        """Accept no more calls; return when those in flight are answered, or cancelled after `grace_s` seconds."""
        await asyncio.gather(*(server.stop(grace_s) for server in self.servers))
