"""Zero-copy bodies: read past the parser, whole, in place, and without a byte of the next request."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from normfold.service.http import body as module
from normfold.service.http import timeouts
from tests.support.bundles import BundleWriter
from tests.support.raw_http import connect, read_responses
from tests.support.service import Service, StartService
from tests.support.waiting import wait_for

PATH = b"/v2/models/identity-fp32/infer"
ROWS = np.arange(100_000, dtype=np.float32).reshape(-1, 2)


def binary_request(rows: np.ndarray, padding: int = 0) -> tuple[bytes, bytes]:
    """Return head and body of a request with binary rows; `padding` bytes lengthen its JSON."""
    entry: dict[str, Any] = {"name": "input", "datatype": "FP32", "shape": list(rows.shape)}
    entry["parameters"] = {"binary_data_size": rows.nbytes}
    front = json.dumps({"inputs": [entry], "parameters": {"binary_data_output": True}}).encode() + b" " * padding
    head = b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\nInference-Header-Content-Length: %d\r\n\r\n"
    return head % (PATH, len(front) + rows.nbytes, len(front)), front + rows.tobytes()


@pytest.fixture
def received(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of bodies that were read in place."""
    sizes: list[int] = []
    right = module.receive_in_place

    async def receive(cycle: Any, length: int, padding: int) -> memoryview:
        body = await right(cycle, length, padding)
        sizes.append(len(body))
        return body

    monkeypatch.setattr(module, "receive_in_place", receive)
    return sizes


@pytest.mark.slow
@pytest.mark.parametrize("padding", range(4))
def test_zero_copy_body_is_whole_and_bytes_after_it_are_the_next_request(
    served_large: Service, received: list[int], padding: int
) -> None:
    head, body = binary_request(ROWS, padding)
    last = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    with connect(served_large.client) as connection:
        connection.sendall(head + body + head + body + last)
        found = read_responses(connection)
    assert [status for status, _ in found] == [200, 200, 200]
    assert found[0][1].endswith(ROWS.tobytes())
    assert found[1][1].endswith(ROWS.tobytes())
    assert len(body) in received


def test_zero_copy_body_may_arrive_slowly(served_large: Service, received: list[int]) -> None:
    head, body = binary_request(ROWS)
    cuts = [0, 1, 70_000, 70_001, 200_000, len(body) - 1, len(body)]
    with connect(served_large.client) as connection:
        connection.sendall(head)
        for start, stop in pairwise(cuts):
            served_large.client.get("/v2")  # the service has read what was sent before
            connection.sendall(body[start:stop])
        connection.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        found = read_responses(connection)
    assert [status for status, _ in found] == [200, 200]
    assert found[0][1].endswith(ROWS.tobytes())
    assert received == [len(body)]


def test_garbage_after_a_zero_copy_body_is_rejected_after_its_response(
    served_large: Service, received: list[int]
) -> None:
    head, body = binary_request(ROWS)
    with connect(served_large.client) as connection:
        connection.sendall(head + body + b"GARBAGE\0\r\n\r\n")
        found = read_responses(connection)
    assert found[0][0] == 200
    assert {status for status, _ in found[1:]} <= {400}
    assert received == [len(body)]


@pytest.mark.slow
def test_disconnect_or_stall_within_a_zero_copy_body_ends_the_request(
    bundles: BundleWriter, start: StartService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timeouts, "REAP_INTERVAL_S", 0.05)
    bundles.identity("FP32")
    service = start(bundles.root, receive_timeout_s=0.3)
    head, body = binary_request(ROWS)
    with connect(service.client) as connection:
        connection.sendall(head + body[:100_000])
        service.client.get("/v2")  # the service has read what was sent before
    wait_for(lambda: 'status="499",version="1"} 1.0' in service.client.get("/metrics").text)
    with connect(service.client) as connection:
        connection.sendall(head + body[:100_000])
        assert [status for status, _ in read_responses(connection)] == [408]


def test_chunked_and_rejected_bodies_are_not_zero_copy(served_large: Service, received: list[int]) -> None:
    head, body = binary_request(ROWS)
    chunked = head.replace(b"Content-Length: %d" % len(body), b"Transfer-Encoding: chunked", 1)
    with connect(served_large.client) as connection:
        connection.sendall(chunked + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
        connection.sendall(head.replace(b"identity-fp32", b"none") + body)
        connection.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        found = read_responses(connection)
    assert [status for status, _ in found] == [200, 404, 200]
    assert not received


@pytest.fixture
def served_large(bundles: BundleWriter, start: StartService) -> Service:
    """A service with a model that returns its input."""
    bundles.identity("FP32")
    return start(bundles.root)
