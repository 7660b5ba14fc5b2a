"""One HTTP connection: pipelining, keep-alive, upgrades, limits on headers, disconnects."""

from __future__ import annotations

import gzip
import json
import socket
import threading
from typing import Any

import pytest

from normfold.service.codec.compression import decompress
from normfold.service.http import protocol, timeouts
from normfold.service.inference import infer_call as infer
from tests.support.bundles import BundleWriter
from tests.support.infer_bodies import PICTURE
from tests.support.raw_http import INFER_BODY, INFER_HEAD, connect, read_responses
from tests.support.service import HeldRuns, StartService
from tests.support.waiting import wait_for


@pytest.fixture
def slow(bundles: BundleWriter, start: StartService, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A service whose runs can be held: (holder, service)."""
    bundles.digits()
    holder = HeldRuns(monkeypatch)
    return holder, start(bundles.root)


def test_garbage_after_a_request_does_not_spoil_its_response(slow: Any) -> None:
    holder, service = slow
    holder.holds.set()
    with connect(service.client) as connection:
        connection.sendall(INFER_HEAD % (len(INFER_BODY), b"") + INFER_BODY)
        assert holder.running.wait(timeout=20)
        connection.sendall(b"GARBAGE\0\r\n\r\n")
        holder.go_on.set()
        found = read_responses(connection)
    assert [status for status, _ in found] == [200]
    assert json.loads(found[0][1])["outputs"]


def test_pipelined_requests_are_answered_in_order(slow: Any) -> None:
    _, service = slow
    with connect(service.client) as connection:
        bodies = [json.dumps(PICTURE | {"id": str(number)}).encode() for number in range(20)]
        last = b"Connection: close\r\n"
        sent = [INFER_HEAD % (len(body), last if body is bodies[-1] else b"") + body for body in bodies]
        connection.sendall(b"".join(sent))
        found = read_responses(connection)
    assert [json.loads(body)["id"] for _, body in found] == [str(number) for number in range(20)]


@pytest.mark.slow
def test_idle_connection_is_closed_after_the_keep_alive_timeout(slow: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes that begin no request do not keep a connection open."""
    monkeypatch.setattr(timeouts, "REAP_INTERVAL_S", 0.05)
    monkeypatch.setattr(timeouts, "KEEP_ALIVE_TIMEOUT_S", 0.2)
    _, service = slow
    with connect(service.client) as connection:
        connection.sendall(b"GET /v2 HTTP/1.1\r\nHost: x\r\n\r\n")
        connection.recv(4096)
        connection.sendall(b"\r\n")
        rest = b""
        while received := connection.recv(4096):  # the rest of the response, until the connection is closed
            rest += received
        assert b"HTTP/1.1" not in rest


@pytest.mark.slow
def test_closing_connection_whose_client_never_reads_is_cut(
    bundles: BundleWriter, start: StartService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timeouts, "REAP_INTERVAL_S", 0.05)
    started = start(bundles.root, receive_timeout_s=0.5)
    with connect(started.client) as connection:
        connection.sendall(b"GET /v2 HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.recv(4096)
        running = started.server
        connections = running.server_state.connections
        (server_side,) = [one for one in connections if is_of(one, connection)]

        def respond_and_close() -> None:
            server_side.transport.write(bytes(50_000_000))  # more than both sides' kernels hold
            server_side.transport.close()

        server_side.loop.call_soon_threadsafe(respond_and_close)
        wait_for(lambda: server_side not in connections, timeout_s=10)
        received = 0
        while part := connection.recv(2**20):
            received += len(part)
        assert received < 50_000_000


def is_of(server_side: Any, connection: socket.socket) -> bool:
    """Return whether a connection of the server is the other end of a client's."""
    peer: tuple[str, int] = server_side.transport.get_extra_info("peername")
    return peer == connection.getsockname()


def test_connection_is_closed_after_an_error_before_100_continue(slow: Any) -> None:
    """After the error the client may send its body or not: the next bytes may be a body or a request."""
    _, service = slow
    head = b"POST /v2/models/none/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\nExpect: 100-continue\r\n\r\n"
    with connect(service.client) as connection:
        connection.sendall(head)
        found = read_responses(connection)
    assert [status for status, _ in found] == [404]


@pytest.mark.parametrize("cut", [0, 30, 250, 400])
@pytest.mark.parametrize("padding", [0, 200_000])
def test_upgrade_to_another_protocol_is_ignored(slow: Any, cut: int, padding: int) -> None:
    """RFC 9110, section 7.8, allows it; curl --http2 and some Java clients ask for one with every request."""
    _, service = slow
    body = INFER_BODY + b" " * padding
    sent = INFER_HEAD % (
        len(body),
        b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n",
    )
    with connect(service.client) as connection:
        connection.sendall((sent + body)[:cut])
        service.client.get("/v2")  # the service has read what was sent before
        connection.sendall((sent + body)[cut:] + b"GET /v2 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        found = read_responses(connection)
    assert [status for status, _ in found] == [200, 200]
    assert json.loads(found[0][1])["outputs"]


def test_headers_over_the_limit_in_one_chunk_are_rejected_and_a_long_body_is_not(
    bundles: BundleWriter, start: StartService
) -> None:
    bundles.digits()
    service = start(bundles.root, max_header_bytes=2048)
    padded = INFER_BODY + b" " * 8000
    with connect(service.client) as connection:
        connection.sendall(INFER_HEAD % (len(padded), b"") + padded + b"GET /v2 HT")
        connection.sendall(b"TP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert [status for status, _ in read_responses(connection)] == [200, 200]
    with connect(service.client) as connection:
        connection.sendall(b"GET /v2 HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 1000 + b"\r\n")
        assert [status for status, _ in read_responses(connection)] == [431]


def test_request_of_a_client_that_disconnects_during_decoding_never_runs(
    slow: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    holder, service = slow
    decoding, go_on, lost = threading.Event(), threading.Event(), threading.Event()
    right, lose = decompress, protocol.HttpProtocol.connection_lost

    def wait(*arguments: Any) -> Any:
        decoding.set()
        assert go_on.wait(timeout=20)
        return right(*arguments)

    def connection_lost(connection: Any, error: Any) -> None:
        lose(connection, error)
        lost.set()

    monkeypatch.setattr(infer, "decompress", wait)
    monkeypatch.setattr(protocol.HttpProtocol, "connection_lost", connection_lost)
    padded = gzip.compress(INFER_BODY + b" " * 40_000, compresslevel=0)
    with connect(service.client) as connection:
        connection.sendall(INFER_HEAD % (len(padded), b"Content-Encoding: gzip\r\n") + padded)
        assert decoding.wait(timeout=20)
    assert lost.wait(timeout=20)
    holder.holds.set()
    go_on.set()
    holder.go_on.set()
    wait_for(lambda: service.client.get("/metrics").text.count('status="499"') == 1)
    assert not holder.running.is_set()
