"""What a transport says about its connection: addresses, scheme, and whether the client has everything."""

from __future__ import annotations

import asyncio
import fcntl
import termios
from typing import Any


def describe_connection(transport: asyncio.BaseTransport) -> dict[str, Any]:
    """Return `server`, `client` and, with TLS, `scheme`, as a scope of ASGI has them.

    An address is None on a connection that was reset already, and that of a client on a Unix socket.
    """
    server, client = transport.get_extra_info("sockname"), transport.get_extra_info("peername")
    found: dict[str, Any] = {
        "server": (server, None) if server and isinstance(server, str) else _host_and_port(server),
        "client": _host_and_port(client),
    }
    if transport.get_extra_info("sslcontext") is not None:
        found["scheme"] = "https"
    return found


def is_sent_to_client(transport: asyncio.Transport) -> bool:
    """Return whether the client has received everything that was written; False if that cannot be known."""
    connection = transport.get_extra_info("socket")
    if connection is None or transport.get_write_buffer_size():
        return False
    try:
        answer = fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, b"\0" * 4)
    except OSError:
        return False
    return answer == b"\0" * 4


def _host_and_port(address: Any) -> tuple[str, int] | None:
    return address[:2] if isinstance(address, tuple) else None
