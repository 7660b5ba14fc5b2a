"""Clients of a service: httpx, and HTTP/1.1 written and read as bytes, for requests that no library would send."""

from __future__ import annotations

import json
import socket

import httpx

from tests.support.infer_bodies import PICTURE

INFER_HEAD = b"POST /v2/models/digits/infer HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n%b\r\n"
"""Head of an infer request: the length of its body, and more header lines, each with its line end."""

INFER_BODY = json.dumps(PICTURE).encode()
"""Body of an infer request of one picture."""


def open_client(url: httpx.URL | str) -> httpx.Client:
    """Open a client of a service on this machine."""
    # Without verify=False, each client reads the certificates of all authorities first, which takes 0.1 s.
    return httpx.Client(base_url=url, timeout=20, trust_env=False, verify=False)


def connect(client: httpx.Client) -> socket.socket:
    """Open a connection to the service that a client is for."""
    return socket.create_connection((client.base_url.host, client.base_url.port or 80), timeout=20)


def read_responses(connection: socket.socket) -> list[tuple[int, bytes]]:
    """Read responses until the server closes the connection; return (status, body) of each."""
    file, found = connection.makefile("rb"), []
    while line := file.readline():
        status, length = int(line.split()[1]), 0
        while (field := file.readline().lower()) not in (b"\r\n", b""):
            length = int(field.split(b":")[1]) if field.startswith(b"content-length") else length
        found.append((status, file.read(length)))
    return found
