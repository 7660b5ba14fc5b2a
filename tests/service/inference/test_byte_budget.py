"""The byte budget of large bodies: reservations, releases, bodies of unknown length."""

from __future__ import annotations

import gzip
import json
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import pytest

from normfold.service.batching.thread_pool import INLINE_BYTES
from normfold.service.errors import BodyBudgetError
from normfold.service.inference.byte_budget import BodyReservation, ByteBudget, declared_bytes
from tests.support.bundles import BundleWriter
from tests.support.infer_bodies import PICTURE
from tests.support.raw_http import connect, read_responses
from tests.support.service import Service, StartService
from tests.support.waiting import wait_for

MB = 2**20


def declared(size: int) -> dict[bytes, bytes]:
    """Return the headers of a body."""
    return {b"content-length": b"%d" % size}


def test_byte_budget_reserves_what_fits_and_again_what_was_released() -> None:
    budget = ByteBudget(10 * MB)
    assert budget.reserve(6 * MB)
    assert budget.reserve(4 * MB)
    assert not budget.reserve(MB)

    budget.release(4 * MB)

    assert budget.reserve(4 * MB)
    assert not budget.reserve(1)


def test_byte_budget_replaces_bytes_that_are_held() -> None:
    budget = ByteBudget(10 * MB)
    budget.reserve(4 * MB)
    budget.reserve(3 * MB)

    assert not budget.reserve(7 * MB, held=3 * MB)
    assert budget.reserve(6 * MB, held=3 * MB)
    assert not budget.reserve(1)


def test_byte_budget_grants_a_reservation_without_others() -> None:
    budget = ByteBudget(MB)

    assert budget.reserve(64 * MB)
    assert not budget.reserve(1)


def test_byte_budget_asks_for_trimming_after_the_last_release_of_a_large_peak() -> None:
    budget = ByteBudget(200 * MB)
    for nbytes in (40 * MB, 30 * MB):
        budget.reserve(nbytes)

    assert not budget.release(40 * MB)
    assert budget.release(30 * MB)
    budget.reserve(MB)
    assert not budget.release(MB)


def test_byte_budget_shrinks_a_reservation_even_over_the_limit() -> None:
    budget = ByteBudget(10 * MB)
    budget.reserve(MB)
    budget.reserve(9 * MB)
    budget.max_bytes = 5 * MB

    assert budget.reserve(8 * MB, held=9 * MB)
    assert not budget.reserve(9 * MB, held=8 * MB)


@pytest.mark.parametrize(
    ("headers", "nbytes"),
    [
        (declared(1000), 1000),
        (declared(10**18), 8 * MB),
        ({}, 0),
        (declared(50_000) | {b"content-encoding": b"gzip"}, 50_000),
        ({b"transfer-encoding": b"chunked", b"content-encoding": b"gzip"}, 0),
    ],
)
def test_declared_bytes_are_what_the_client_says_that_it_sends(headers: dict[bytes, bytes], nbytes: int) -> None:
    assert declared_bytes(headers, max_body_bytes=8 * MB) == nbytes


def test_body_reservation_counts_a_large_body_as_it_grows_and_shrinks() -> None:
    budget = ByteBudget(MB)
    first, second = BodyReservation(budget), BodyReservation(budget)
    first.grow(600_000)
    second.grow(INLINE_BYTES)
    second.grow(400_000)
    second.grow(300_000)  # arrived bytes of a body that is reserved whole
    with pytest.raises(BodyBudgetError):
        second.grow(500_000)
    first.resize(500_000)
    second.grow(500_000)
    first.release()
    first.release()

    assert budget.reserve(MB - 500_000)
    assert not budget.reserve(1)


def test_small_body_reserves_nothing() -> None:
    budget = ByteBudget(MB)
    budget.reserve(MB)

    BodyReservation(budget).resize(INLINE_BYTES)


def test_byte_budget_is_exact_with_several_threads() -> None:
    budget = ByteBudget(10**9)

    def change() -> None:
        reservation = BodyReservation(budget)
        for size in range(40_000, 42_000):
            reservation.resize(size)
        reservation.release()

    threads = [threading.Thread(target=change) for _ in range(4)]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)

    assert budget.reserve(1)
    assert not budget.reserve(10**9)


def pieces_of(body: bytes, size: int) -> Iterator[bytes]:
    """Yield a body in pieces, so that it is sent chunked."""
    for start in range(0, len(body), size):
        yield body[start : start + size]


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("path", ["/v2/models/digits/infer", "/v1/models/digits:predict"])
def test_small_bodies_of_unknown_length_are_answered_however_many(
    bundles: BundleWriter, start: StartService, path: str, chunked: bool
) -> None:
    bundles.digits()
    service = start(bundles.root)
    body = gzip.compress(json.dumps(PICTURE | {"instances": [[[0] * 4] * 4]}).encode())
    lines = b"Transfer-Encoding: chunked\r\n" if chunked else b"Content-Length: %d\r\n" % len(body)
    head = b"POST %b HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Encoding: gzip\r\n%b\r\n"
    wire = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if chunked else body
    with ExitStack() as stack:
        connections = [stack.enter_context(connect(service.client)) for _ in range(50)]
        for connection in connections:
            connection.sendall(head % (path.encode(), lines) + wire[:20])
        wait_until_in_flight(service, 50)
        for connection in connections:
            connection.sendall(wire[20:])
        found = [read_responses(connection)[0][0] for connection in connections]

    assert found == [200] * 50


@pytest.mark.parametrize("encoding", ["", "gzip"])
@pytest.mark.parametrize("path", ["/v2/models/digits/infer", "/v1/models/digits:predict"])
def test_body_of_unknown_length_counts_as_it_comes(
    bundles: BundleWriter, start: StartService, path: str, encoding: str
) -> None:
    bundles.digits()
    service = start(bundles.root, max_bodies_bytes=100_000)
    plain = json.dumps(PICTURE | {"instances": [[[0] * 4] * 4]}).encode() + b" " * 70_000
    body = gzip.compress(plain) if encoding else plain
    headers = {"Content-Encoding": encoding} if encoding else {}

    def post() -> httpx.Response:
        return service.client.post(path, content=pieces_of(body, 10_000), headers=headers)

    with connect(service.client) as connection:
        connection.sendall(b"POST /v2/models/digits/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 90000\r\n\r\n")
        wait_until_in_flight(service)
        refused = post()
    wait_until_in_flight(service, 0)
    taken = [post().status_code for _ in range(3)]

    assert refused.status_code == 503
    assert "large requests" in refused.json()["error"]
    assert taken == [200] * 3


@pytest.mark.slow
@pytest.mark.parametrize("path", ["/v2/models/digits/infer", "/v1/models/digits:predict"])
def test_bomb_is_stopped_by_the_byte_budget_of_bodies(bundles: BundleWriter, start: StartService, path: str) -> None:
    bundles.digits()
    service = start(bundles.root, max_bodies_bytes=8 * MB)
    bomb = gzip.compress(b" " * 20 * MB)
    with connect(service.client) as connection:
        connection.sendall(b"POST /v2/models/digits/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 90000\r\n\r\n")
        wait_until_in_flight(service)
        response = service.client.post(path, content=bomb, headers={"Content-Encoding": "gzip"})

    assert len(bomb) < INLINE_BYTES
    assert response.status_code == 503


@pytest.mark.parametrize("path", [b"/v2/models/digits/infer", b"/v1/models/digits:predict"])
def test_large_body_over_the_byte_budget_is_rejected_before_it_is_read(
    bundles: BundleWriter, start: StartService, path: bytes
) -> None:
    bundles.digits()
    service = start(bundles.root, max_bodies_bytes=100_000)
    head = b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: 80000\r\n\r\n" % path
    with connect(service.client) as first, connect(service.client) as second:
        first.sendall(head + b" " * 40_000)
        wait_until_in_flight(service)
        second.sendall(head + b" " * 80_000)
        second.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        refused = read_responses(second)
    with connect(service.client) as third:
        third.sendall(head.replace(b"Host", b"Connection: close\r\nHost") + b" " * 80_000)
        taken = read_responses(third)

    assert [status for status, _ in refused] == [503, 200]
    assert b"large requests" in refused[0][1]
    assert [status for status, _ in taken] == [400]


def wait_until_in_flight(service: Service, count: int = 1) -> None:
    """Wait until the service has so many requests in flight besides the one that asks."""
    line = f"normfold_requests_in_flight {count + 1}.0"
    wait_for(lambda: line in service.client.get("/metrics").text)
