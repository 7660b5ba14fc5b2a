"""Responses of many MB: memory, the byte budget, clients that do not read."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from onnx import helper

from normfold.contract.manifest import TensorSpec
from normfold.service.http.timeouts import ConnectionTimeouts, Timeout
from tests.support.bundles import BundleWriter
from tests.support.command import SCRIPT, serving
from tests.support.raw_http import connect, read_responses
from tests.support.service import AccessLog, Service, StartService
from tests.support.waiting import wait_for, wait_until_loaded

FLOATS = 10_000_000
ROW = 4 * FLOATS
"""Bytes of a row of the model `grow` as tensor; its JSON, of the repeated value 1.5, has as many."""

PAGE = os.sysconf("SC_PAGE_SIZE")

FRUGAL = f"""
import os, signal
from normfold.service.runtime.malloc import release_memory

def give(*_):
    release_memory()
    os.write(1, b"given\\n")

signal.signal(signal.SIGUSR1, give)
{SCRIPT}
"""
"""Serves, and returns freed memory to the system on SIGUSR1: from then on only responses make memory grow."""

SWEEPING_FAST = f"from normfold.service.http import timeouts; timeouts.REAP_INTERVAL_S = 0.05\n{FRUGAL}"
"""Serves, and checks timeouts twenty times a second."""


def grow(bundles: BundleWriter, floats: int = FLOATS) -> None:
    """Write a network that expands one number to millions."""
    bundles.write(
        "grow",
        1,
        [helper.make_node("Expand", ["input", "shape"], ["output"])],
        [TensorSpec(name="input", datatype="FP32", shape=(-1, 1))],
        [TensorSpec(name="output", datatype="FP32", shape=(-1, floats))],
        {"shape": np.array([1, floats], np.int64)},
    )


def asking(binary: bool = True, rows: int = 1, closing: bool = False) -> bytes:
    """Return a request for rows of `grow`."""
    tensor = {"name": "input", "datatype": "FP32", "shape": [rows, 1], "data": [1.5] * rows}
    body = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": binary}}).encode()
    close = b"Connection: close\r\n" if closing else b""
    head = b"POST /v2/models/grow/infer HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n%b\r\n"
    return head % (len(body), close) + body


def wait_for_answer(connection: socket.socket) -> None:
    """Wait for the first bytes of a response, and leave them unread."""
    assert connection.recv(12, socket.MSG_PEEK) == b"HTTP/1.1 200"


def read_away(connection: socket.socket) -> int:
    """Read and drop everything; return the number of bytes."""
    size, buffer = 0, bytearray(2**16)
    while read := connection.recv_into(buffer):
        size += read
    return size


def ask(service: Service, sent: bytes) -> tuple[int, bytes]:
    with connect(service.client) as connection:
        connection.sendall(sent)
        [response] = read_responses(connection)
    return response


@contextlib.contextmanager
def serving_grow(
    bundles: BundleWriter, floats: int, script: str = FRUGAL, **variables: str
) -> Iterator[tuple[Any, Callable[[], int]]]:
    """Serve `grow` in a process of its own, so that memory of other tests does not count.

    Returns:
        The service, and a function: the bytes that it has in memory beyond those it had when it was ready.
    """
    grow(bundles, floats)
    variables |= {"NORMFOLD_MAX_BATCH_SIZE": "1", "NORMFOLD_PROVIDER": "cpu"}
    with serving(bundles.root, script=script, **variables) as (process, client):
        assert wait_until_loaded(client) == {"ready": True}
        process.send_signal(signal.SIGUSR1)
        assert process.stdout is not None
        assert process.stdout.readline() == "given\n"
        statm = Path(f"/proc/{process.pid}/statm")
        before = resident(statm)
        yield SimpleNamespace(client=client), lambda: resident(statm) - before


def resident(statm: Path) -> int:
    return int(statm.read_text().split()[1]) * PAGE


@pytest.mark.alone
@pytest.mark.slow
@pytest.mark.parametrize("binary", [True, False])
def test_unread_response_is_held_once_and_its_memory_returned(bundles: BundleWriter, binary: bool) -> None:
    with serving_grow(bundles, FLOATS) as (service, grown):
        with connect(service.client) as connection:
            connection.sendall(asking(binary))
            wait_for_answer(connection)
            wait_for(lambda: 0.9 * ROW < grown() < 1.3 * ROW)  # the tensor is freed before the first bytes are sent
        wait_for(lambda: grown() < 0.2 * ROW)


@pytest.mark.alone
@pytest.mark.slow
@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("floats", [9_000_000, 4_000_000])  # above and below what glibc returns by itself
def test_memory_of_several_responses_is_returned_once_they_are_read(
    bundles: BundleWriter, binary: bool, floats: int
) -> None:
    with serving_grow(bundles, floats) as (service, grown), contextlib.ExitStack() as stack:
        readers = [stack.enter_context(connect(service.client)) for _ in range(8)]
        for reader in readers:
            reader.sendall(asking(binary, closing=True))
        for reader in readers:
            wait_for_answer(reader)
        held = grown()
        for reader in readers:
            assert read_away(reader) > 4 * floats
        wait_for(lambda: grown() < 4 * floats)
    assert held > 7.5 * 4 * floats


@pytest.mark.slow
def test_large_response_is_complete_as_bytes_and_as_json(bundles: BundleWriter, start: StartService) -> None:
    grow(bundles, floats=300_000)
    service = start(bundles.root, max_batch_size=1)
    expected = np.full(600_000, 1.5, np.float32)
    _, body = ask(service, asking(binary=True, rows=2, closing=True))
    at = body.index(b"]}") + 2
    assert json.loads(body[:at])["outputs"][0]["parameters"] == {"binary_data_size": expected.nbytes}
    np.testing.assert_array_equal(np.frombuffer(body[at:], np.float32), expected)
    _, body = ask(service, asking(binary=False, rows=2, closing=True))
    output = json.loads(body)["outputs"][0]
    assert output["shape"] == [2, 300_000]
    np.testing.assert_array_equal(np.array(output["data"], np.float32), expected)


@pytest.mark.alone
@pytest.mark.slow
def test_client_that_never_reads_is_disconnected_and_others_are_served(bundles: BundleWriter, tmp_path: Path) -> None:
    bundles.digits()
    log, patience = tmp_path / "access.log", {"NORMFOLD_RECEIVE_TIMEOUT_S": "0.5"}
    with (
        serving_grow(bundles, FLOATS, SWEEPING_FAST, NORMFOLD_ACCESS_LOG=str(log), **patience) as (service, grown),
        connect(service.client) as greedy,
    ):
        greedy.sendall(20 * asking().replace(b"Host", b"X-Request-Id: greedy\r\nHost"))
        wait_for_answer(greedy)
        assert service.client.get("/v2/models/digits").status_code == 200
        assert grown() < 2.5 * ROW  # one response, and the next one at most
        wait_for(lambda: statuses(log, "greedy") == {499})
        assert ask(service, asking(closing=True))[0] == 200


def statuses(log: Path, request_id: str) -> set[int]:
    """Return the statuses of requests with an id, from the access log."""
    lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    return {line["status"] for line in lines if line.get("request_id") == request_id}


@pytest.mark.slow
def test_unread_responses_share_a_byte_budget(bundles: BundleWriter, start: StartService) -> None:
    grow(bundles, floats=2_000_000)
    service = start(bundles.root, max_response_bytes=3 * 8_000_000)
    with contextlib.ExitStack() as stack:
        readers = [stack.enter_context(connect(service.client)) for _ in range(2)]
        for reader in readers:
            reader.sendall(asking(closing=True))
            wait_for_answer(reader)
        assert ask(service, asking(closing=True))[0] == 503
        assert [response[0] for reader in readers for response in read_responses(reader)] == [200, 200]
    wait_for(lambda: ask(service, asking(closing=True))[0] == 200)


@pytest.mark.slow
@pytest.mark.parametrize("binary", [True, False])
def test_response_over_the_limit_is_rejected_before_the_run(
    bundles: BundleWriter, start: StartService, access_log: AccessLog, binary: bool
) -> None:
    grow(bundles, floats=1_000_000)
    service = start(bundles.root, max_response_bytes=20_000_000)
    assert ask(service, asking(binary, rows=4, closing=True))[0] == 200
    sent = asking(binary, rows=6, closing=True).replace(b"Host", b"X-Request-Id: large\r\nHost")
    status, body = ask(service, sent)
    assert status == 400
    assert json.loads(body)["error"] == (
        "The response would have 24,000,000 bytes, over the limit of 20,000,000; send fewer rows in one request."
    )
    assert "rows" not in access_log.facts_of("large")  # it did not run
    response = service.client.post("/v1/models/grow:predict", json={"instances": [[1.5]] * 6})
    assert (response.status_code, response.json()) == (400, json.loads(body))


@pytest.mark.parametrize(
    ("waiting", "resumes", "is_cut"),
    [
        ([9, 9, 9, 9], (), True),
        ([9, 9, 12, 15], (), True),  # more is written, and nothing read
        ([9, 1, 9, 8], (), False),
        ([1, 9, 9, 9], (3,), False),  # most was read, and more was written
        ([9, 0, 9, 9], (), False),
    ],
)
def test_write_timeout_passes_only_for_a_client_that_reads_nothing(
    waiting: list[int], resumes: tuple[int, ...], is_cut: bool
) -> None:
    """Checked once a second with a timeout of 2.5 s; before each check in `resumes` the client has read."""
    connection = ConnectionTimeouts(receive_timeout_s=2.5, now=100.0)
    passed = []
    for second, unread_bytes in enumerate(waiting):
        if second in resumes:
            connection.note_read()
        passed.append(connection.find_passed(100.0 + second, unread_bytes, is_reading_paused=True))
    assert (Timeout.WRITE in passed) is is_cut
