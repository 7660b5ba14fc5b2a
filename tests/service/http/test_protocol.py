"""The HTTP protocol under any ASGI application: messages, streaming, HEAD, pipelining, faults, uvicorn's interface."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect
import json
import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.types import Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from normfold.service.app import create_app
from normfold.service.http.cycle import RequestCycle
from normfold.service.http.protocol import HttpProtocol
from normfold.service.settings import Settings
from tests.support.bundles import BundleWriter
from tests.support.infer_bodies import PICTURE
from tests.support.raw_http import connect, read_responses
from tests.support.service import Service, serve_app
from tests.support.waiting import wait_for

App = Callable[[Scope, Receive, Send], Awaitable[None]]

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
LAST = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


@contextlib.contextmanager
def serving(app: App, **settings: Any) -> Iterator[Service]:
    """Serve an ASGI application that takes HTTP requests only."""

    async def with_lifespan(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            for phase in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{phase}.complete"})
        else:
            await app(scope, receive, send)

    with serve_app(with_lifespan, Settings(**settings)) as service:  # type: ignore[arg-type]
        yield service


def exchange(service: Service, sent: bytes) -> bytes:
    """Send bytes, and return all that comes until the server closes the connection."""
    with connect(service.client) as connection:
        connection.sendall(sent)
        return connection.makefile("rb").read()


async def read_all(receive: Receive) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    return body


def start_message(*headers: tuple[bytes, bytes], status: int = 200) -> Message:
    return {"type": "http.response.start", "status": status, "headers": list(headers)}


def body_message(body: bytes = b"", more_body: bool = False) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": more_body}


def test_uvicorn_has_the_interface_that_the_protocol_uses() -> None:
    """Its server makes a protocol with these arguments, and waits for these sets when it stops."""
    theirs = inspect.signature(HttpToolsProtocol).parameters
    ours = inspect.signature(HttpProtocol).parameters
    assert list(theirs) == [name for name in ours if name not in ("settings", "reaper")]
    state = ServerState()
    assert (state.connections, state.tasks, state.default_headers) == (set(), set(), [])
    source = inspect.getsource(uvicorn.Server.shutdown) + inspect.getsource(uvicorn.Server.startup)
    assert "connection.shutdown()" in source
    assert "config.http_protocol_class(" in source
    assert not any(issubclass(HttpProtocol, kind) for kind in (HttpToolsProtocol, asyncio.Protocol))


def test_response_without_a_length_is_sent_in_chunks() -> None:
    async def app(_: Scope, __: Receive, send: Send) -> None:
        await send(start_message((b"X-Case", b"kept")))
        for part in (b"one", b"", b"two"):
            await send(body_message(part, more_body=True))
        await send(body_message())

    with serving(app) as service:
        response = service.client.get("/")
        raw = exchange(service, LAST)
    assert response.text == "onetwo"
    assert response.headers["transfer-encoding"] == "chunked"
    assert raw.endswith(b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n")
    assert b"\r\nconnection: close\r\n" in raw
    assert b"\r\nx-case: kept\r\n" in raw


def test_response_to_head_has_no_body_and_the_connection_goes_on() -> None:
    async def app(scope: Scope, _: Receive, send: Send) -> None:
        await send(start_message((b"content-length", b"5")))
        await send(body_message(b"hello"))
        assert scope["path"] == "/"

    with serving(app) as service:
        raw = exchange(service, GET.replace(b"GET", b"HEAD") + LAST)
    assert raw.count(b"HTTP/1.1 200 OK\r\n") == 2
    assert raw.count(b"hello") == 1


def test_error_to_head_has_no_body_and_the_connection_goes_on(bundles: BundleWriter, start: Any) -> None:
    service = start(bundles.root, wait=False)
    head = b"HEAD /v2/health/live HTTP/1.1\r\nX-API-Key: a\r\nX-API-Key: b\r\nHost: x\r\n\r\n"
    assert exchange(service, head.replace(b"Host: x", b"Host: x\r\nHost: y")).endswith(b"\r\n\r\n")
    missing = head.replace(b"/v2/health/live", b"/none%0A").replace(b"X-API-Key: a\r\nX-API-Key: b\r\n", b"")
    raw = exchange(service, missing + LAST.replace(b"GET /", b"GET /v2/health/live"))
    assert raw.count(b"HTTP/1.1 ") == 2
    assert b"HTTP/1.1 404" in raw
    assert raw.endswith(b'{"live":true}')


@pytest.mark.parametrize("length", [b"3", b"9"])
def test_body_of_another_length_than_declared_ends_the_connection(
    length: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async def app(_: Scope, __: Receive, send: Send) -> None:
        await send(start_message((b"content-length", length)))
        await send(body_message(b"hello"))

    with serving(app) as service:
        raw = exchange(service, GET + GET)
    assert raw.count(b"HTTP/1.1 ") == 1
    assert b"hello" not in raw
    assert any("raised" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize(
    "message",
    [
        start_message((b"x\r\ny", b"z")),
        start_message((b"x", b"y\r\nz: 1")),
        body_message(b"before the start"),
        None,
    ],
)
def test_invalid_message_or_none_is_a_fault(message: Message | None, caplog: pytest.LogCaptureFixture) -> None:
    async def app(_: Scope, __: Receive, send: Send) -> None:
        if message is not None:
            await send(message)

    with serving(app) as service:
        raw = exchange(service, GET)
    assert raw.startswith(b"HTTP/1.1 500 Internal Server Error\r\n")
    assert json.loads(raw.split(b"\r\n\r\n", 1)[1])["error"].startswith("The service failed unexpectedly")
    assert [record.levelno for record in caplog.records if "ASGI" in record.getMessage()] == [logging.ERROR]


def test_message_after_the_response_is_an_error_of_the_application() -> None:
    raised: list[str] = []

    async def app(_: Scope, receive: Receive, send: Send) -> None:
        await send(start_message((b"content-length", b"0")))
        await send(body_message())
        with contextlib.suppress(RuntimeError):
            await send(body_message(b"more"))
            raised.append("nothing")
        raised.append((await receive())["type"])

    with serving(app) as service:
        assert service.client.get("/").status_code == 200
        wait_for(lambda: raised)
    assert raised == ["http.disconnect"]


def test_disconnect_ends_receive_and_silences_send() -> None:
    events: list[str] = []

    async def app(_: Scope, receive: Receive, send: Send) -> None:
        await read_all(receive)
        events.append("read")
        events.append((await receive())["type"])
        await send(start_message())
        events.append("sent")

    with serving(app) as service:
        with connect(service.client) as connection:
            connection.sendall(GET)
            wait_for(lambda: events)
        wait_for(lambda: len(events) == 3)
    assert events == ["read", "http.disconnect", "sent"]


def test_body_is_read_no_faster_than_the_application_takes_it() -> None:
    sizes: list[int] = []
    sent = asyncio.Event()

    async def app(_: Scope, receive: Receive, send: Send) -> None:
        more = True
        while more:
            message = await receive()
            sizes.append(len(message["body"]))
            more = message["more_body"]
            await asyncio.sleep(0)
        await send(start_message((b"content-length", b"0")))
        await send(body_message())
        sent.set()

    with serving(app) as service:
        chunked = b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
        body = b"%x\r\n%b\r\n0\r\n\r\n" % (2_000_000, bytes(2_000_000))
        assert exchange(service, chunked + body).startswith(b"HTTP/1.1 200")
    assert sum(sizes) == 2_000_000
    assert max(sizes) <= 2 * 64 * 1024


def test_pipelined_headers_over_the_limit_do_not_reach_the_body_before_them() -> None:
    """Nothing after rejected headers is parsed: not as a part of the request that is served, and not as a request."""
    bodies: list[bytes] = []
    requests = 0

    async def app(_: Scope, receive: Receive, send: Send) -> None:
        nonlocal requests
        requests += 1
        await asyncio.sleep(0.05)  # the request after it is parsed first
        bodies.append(await read_all(receive))
        await send(start_message((b"content-length", b"0")))
        await send(body_message())

    first = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"
    second = b"POST / HTTP/1.1\r\nHost: x\r\nA: %b\r\nContent-Length: 6\r\n\r\nHIDDEN" % (b"a" * 3000)
    with serving(app, max_header_bytes=2048) as service:
        with connect(service.client) as connection:
            connection.sendall(first + second + GET)
            assert [status for status, _ in read_responses(connection)] == [200]
        with connect(service.client) as connection:
            connection.sendall(second + GET)
            assert [status for status, _ in read_responses(connection)] == [431]
    assert bodies == [b"hello"]
    assert requests == 1


def test_request_target_is_decoded_into_path_and_query() -> None:
    scopes: list[Scope] = []

    async def app(scope: Scope, _: Receive, send: Send) -> None:
        scopes.append(scope)
        await send(start_message((b"content-length", b"0")))
        await send(body_message())

    with serving(app) as service:
        exchange(service, LAST.replace(b"GET /", b"GET /a%20b/%C3%A9?c=%20"))
        exchange(service, LAST.replace(b"HTTP/1.1", b"HTTP/1.0"))
    assert (scopes[0]["path"], scopes[0]["raw_path"]) == ("/a b/é", b"/a%20b/%C3%A9")
    assert (scopes[0]["query_string"], scopes[0]["method"], scopes[0]["scheme"]) == (b"c=%20", "GET", "http")
    assert [scope["http_version"] for scope in scopes] == ["1.1", "1.0"]
    assert scopes[0]["headers"] == [(b"host", b"x"), (b"connection", b"close")]
    assert scopes[0]["client"][0] == "127.0.0.1"
    assert scopes[0]["server"][1] == service.client.base_url.port


def test_application_serves_behind_another_asgi_server(bundles: BundleWriter) -> None:
    """Without the protocol's cycle in the scope everything goes through messages."""
    bundles.digits()
    app = create_app(Settings(repository=bundles.root, provider="cpu", max_body_bytes=100_000))

    async def ask() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app=app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://x") as client,
        ):
            while (await client.get("/v2/health/ready")).status_code != 200:
                await asyncio.sleep(0.01)
            path = "/v2/models/digits/infer"
            return [
                await client.post(path, json=PICTURE),
                await client.post(path, json=PICTURE | {"id": "7", "inputs": []}),
                await client.post("/v2/models/none/infer", json={"id": "8"}),
                await client.post(path, content=bytes(100_001)),
            ]

    responses = asyncio.run(ask())
    assert [response.status_code for response in responses] == [200, 400, 404, 413]
    assert responses[0].json()["outputs"][0]["shape"] == [1, 3]
    assert responses[1].json()["error"].startswith("[request id: 7] ")
    assert responses[2].json()["error"].startswith("[request id: 8] ")
    assert all("x-request-id" in response.headers for response in responses)


def test_closed_connections_leave_no_reference_cycles() -> None:
    async def app(_: Scope, receive: Receive, send: Send) -> None:
        body = await read_all(receive)
        await send(start_message((b"content-length", b"%d" % len(body))))
        await send(body_message(body))

    upgrade = b"POST / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 5\r\n\r\nhello"
    with serving(app) as running:
        exchange(running, LAST)
        gc.collect()
        gc.disable()
        try:
            for sent in (LAST, GET + LAST, upgrade + LAST, b"malformed\r\n\r\n"):
                exchange(running, sent)
            with connect(running.client) as connection:
                connection.sendall(upgrade)
                connection.recv(4096)
            wait_for(lambda: not running.server.server_state.connections)
            left = [found for found in gc.get_objects() if isinstance(found, HttpProtocol | RequestCycle)]
        finally:
            gc.enable()
    assert not left
