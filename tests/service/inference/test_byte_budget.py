"""The byte budget of large bodies: reservations, releases, bodies of unknown length."""

from __future__ import annotations

import pytest

from normfold.service.inference.byte_budget import ByteBudget, body_reservation
from tests.support.bundles import BundleWriter
from tests.support.raw_http import connect, read_responses
from tests.support.service import Service, StartService

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


def test_small_body_reserves_nothing() -> None:
    assert body_reservation(declared(1000), max_body_bytes=MB) == 0


@pytest.mark.parametrize(
    "headers",
    [
        {b"transfer-encoding": b"chunked"},
        {b"content-length": b"50000", b"content-encoding": b"gzip"},
        declared(10**18),
    ],
)
def test_body_of_unknown_length_reserves_the_limit_on_bodies(headers: dict[bytes, bytes]) -> None:
    assert body_reservation(headers, max_body_bytes=8 * MB) == 8 * MB


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


def wait_until_in_flight(service: Service) -> None:
    """Wait until the service has a request in flight besides the one that asks."""
    while "normfold_requests_in_flight 2.0" not in service.client.get("/metrics").text:
        pass
