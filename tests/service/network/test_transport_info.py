"""What a scope of ASGI gets of a connection, on TCP, on a Unix socket, with TLS, and after a reset."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from typing import Any

import pytest

from normfold.service.network.transport_info import describe_connection, is_sent_to_client
from tests.support.waiting import wait_for


class Transport(asyncio.Transport):
    """A transport with the facts given, and with bytes that are not written yet."""

    def __init__(self, unwritten: int = 0, **facts: Any) -> None:
        super().__init__(facts)
        self._unwritten = unwritten

    def get_write_buffer_size(self) -> int:
        return self._unwritten


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (
            {"sockname": ("127.0.0.1", 80), "peername": ("127.0.0.2", 5000)},
            {"server": ("127.0.0.1", 80), "client": ("127.0.0.2", 5000)},
        ),
        (
            {"sockname": ("::1", 80, 0, 0), "peername": ("::1", 5000, 0, 0), "sslcontext": ssl.SSLContext},
            {"server": ("::1", 80), "client": ("::1", 5000), "scheme": "https"},
        ),
        ({"sockname": "/run/s", "peername": ""}, {"server": ("/run/s", None), "client": None}),
        ({}, {"server": None, "client": None}),
    ],
)
def test_connection_is_described_as_asgi_has_it(facts: dict[str, Any], expected: dict[str, Any]) -> None:
    assert describe_connection(Transport(**facts)) == expected


def test_connection_that_is_gone_or_not_written_is_not_known_to_be_sent() -> None:
    assert not is_sent_to_client(Transport())
    assert not is_sent_to_client(Transport(unwritten=1, socket=object()))


def test_connection_is_sent_once_the_client_has_received_everything() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as client,
        listener.accept()[0] as connection,
    ):
        connection.setblocking(False)
        transport, sent = Transport(socket=connection), 0
        assert is_sent_to_client(transport)
        with contextlib.suppress(BlockingIOError):
            while True:
                sent += connection.send(bytes(65536))
        assert not is_sent_to_client(transport)
        while sent:
            sent -= len(client.recv(1 << 20))
        wait_for(lambda: is_sent_to_client(transport))
