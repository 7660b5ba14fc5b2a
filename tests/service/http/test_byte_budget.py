"""Large bodies, bounded together: those that come, those that wait, and those of unknown length."""

from __future__ import annotations

import pytest

from normfold.service.errors import BodyBudgetError
from normfold.service.http.body_room import BodyRoom
from tests.support.bundles import BundleWriter
from tests.support.raw_http import connect, read_responses
from tests.support.service import Service, StartService

MB = 2**20


def declared(size: int) -> dict[bytes, bytes]:
    """Return the headers of a body."""
    return {b"content-length": b"%d" % size}


def test_as_much_as_fits_is_taken_and_may_be_taken_again() -> None:
    room = BodyRoom(most=10 * MB, largest=8 * MB)
    first, second = room.take(declared(6 * MB)), room.take(declared(4 * MB))
    with pytest.raises(BodyBudgetError):
        room.take(declared(MB))

    room.give_back(second)

    assert first + room.take(declared(4 * MB)) == 10 * MB


def test_small_bodies_are_not_counted() -> None:
    room = BodyRoom(most=MB, largest=MB)
    room.take(declared(MB))

    assert room.take(declared(1000)) == 0


def test_one_that_is_alone_is_always_taken() -> None:
    assert BodyRoom(most=MB, largest=64 * MB).take(declared(64 * MB)) == 64 * MB


@pytest.mark.parametrize(
    "headers",
    [
        {b"transfer-encoding": b"chunked"},
        {b"content-length": b"50000", b"content-encoding": b"gzip"},
        declared(10**18),
    ],
)
def test_of_unknown_length_it_counts_as_the_largest(headers: dict[bytes, bytes]) -> None:
    assert BodyRoom(most=100 * MB, largest=8 * MB).take(headers) == 8 * MB


@pytest.mark.parametrize("path", [b"/v2/models/digits/infer", b"/v1/models/digits:predict"])
def test_one_too_many_is_answered_503_before_it_is_read(
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
    """Wait until the service has a request besides the question whether it has one."""
    while "normfold_in_flight 2.0" not in service.client.get("/metrics").text:
        pass
