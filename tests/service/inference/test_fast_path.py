"""The fast path of infer requests against ASGI: same responses, metrics and access log lines."""

from __future__ import annotations

import gc
import gzip
import json
import re
import socket
from typing import Any

import pytest

from normfold.service.batching.batch import QueuedRequest
from normfold.service.inference import infer_call
from normfold.service.inference import response as response_module
from normfold.service.inference.fast_path import FastPath
from normfold.service.observability.request_trace import RequestTrace
from tests.support.bundles import BundleWriter
from tests.support.infer_bodies import PICTURE
from tests.support.raw_http import connect, read_responses
from tests.support.service import HeldRuns, Service, StartService
from tests.support.waiting import wait_for

ROWS = {"name": "input", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}
BINARY = json.dumps(
    {"inputs": [{k: v for k, v in ROWS.items() if k != "data"} | {"parameters": {"binary_data_size": 8}}]}
)


def request(body: bytes, path: str = "/v2/models/identity-fp32/infer", **headers: str) -> tuple[bytes, bytes]:
    """Return the head and the body of a request."""
    fields = {"Host": "x", "Content-Length": str(len(body))} | headers
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
    return f"POST {path} HTTP/1.1\r\n{lines}\r\n".encode(), body


def ask(record: Any, path: str = "/v2/models/identity-fp32/infer", **headers: str) -> tuple[bytes, bytes]:
    return request(json.dumps(record).encode(), path, **headers)


DIGITS = "/v2/models/digits/infer"
FRONT = {"Inference_Header_Content_Length": str(len(BINARY))}
CASES = {
    "numbers": ask({"inputs": [ROWS]}),
    "with an id": ask({"inputs": [ROWS], "id": 'a"b'}),
    "bytes out": ask({"inputs": [ROWS], "parameters": {"binary_data_output": True}}),
    "bytes in": request(BINARY.encode() + bytes(8), **FRONT),
    "a tensor alone": request(bytes(48), DIGITS.replace("digits", "rows"), Inference_Header_Content_Length="0"),
    "a version": ask(PICTURE, "/v2/models/digits/versions/1/infer"),
    "classes": ask(PICTURE | {"outputs": [{"name": "logits", "parameters": {"classification": 2}}]}, DIGITS),
    "compressed answer": ask({"inputs": [ROWS | {"shape": [400, 2], "data": [1] * 800}]}, Accept_Encoding="gzip"),
    "its own request id": ask({"inputs": [ROWS]}, X_Request_Id="mine"),
    "no JSON": request(b"{", X_Request_Id="no"),
    "an id and a mistake": ask({"id": "7", "inputs": []}),
    "no such model": ask({"id": "7", "inputs": [ROWS]}, "/v2/models/none/infer"),
    "no such version": ask({"inputs": [ROWS]}, "/v2/models/digits/versions/9/infer"),
    "a length that is none": request(b'{"id": "7"}', Inference_Header_Content_Length="x"),
    "no body": request(b""),
    "another type": ask({"inputs": [ROWS | {"datatype": "FP64"}]}),
    "not a finite number": ask({"inputs": [ROWS | {"shape": [1, 1], "data": [0]}]}, "/v2/models/one-by-one/infer"),
    "closed behind it": ask({"inputs": [ROWS]}, Connection="close"),
}
LONG_CASES = {
    "a query": ask({"inputs": [ROWS]}, "/v2/models/identity-fp32/infer?x=1"),
    "an escape": ask({"inputs": [ROWS]}, "/v2/models/identity%2Dfp32/infer"),
    "a compressed body": request(gzip.compress(json.dumps({"inputs": [ROWS]}).encode()), Content_Encoding="gzip"),
    "a large body": request(json.dumps({"inputs": [ROWS]}).encode() + b" " * 40_000),
    "another route": ask({"instances": [[0, 0]]}, "/v1/models/rows:predict"),
    "no host": (b"POST /v2/models/identity-fp32/infer HTTP/1.1\r\nContent-Length: 2\r\n\r\n", b"{}"),
}


def receive(connection: socket.socket) -> tuple[bytes, dict[str, str], bytes]:
    """Read one response: status line, headers without the date, body."""
    file = connection.makefile("rb")
    status, fields = file.readline(), {}
    while (line := file.readline()) not in (b"\r\n", b""):
        name, value = line.decode().rstrip("\r\n").split(": ", 1)
        fields[name] = value
    fields.pop("date")
    if not re.fullmatch("mine|no", fields["x-request-id"]):
        fields.pop("x-request-id")
    return status, fields, file.read(int(fields["content-length"]))


@pytest.mark.parametrize("case", CASES)
def test_fast_path_and_asgi_respond_alike(
    served: Service, fast_path_urls: list[bytes], case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    head, body = CASES[case]
    found = []
    for cut in (0, len(head) - 2, len(head) + len(body) // 2):
        with connect(served.client) as connection:
            connection.sendall((head + body)[:cut])
            served.client.get("/v2")  # the service has read what was sent before
            connection.sendall((head + body)[cut:])
            found.append(receive(connection))
    assert len(fast_path_urls) == 3
    monkeypatch.setattr(FastPath, "match", lambda *_: None)
    with connect(served.client) as connection:
        connection.sendall(head + body)
        long = receive(connection)
    assert len(fast_path_urls) == 3
    assert found == [long] * 3


def test_disconnect_within_a_fast_path_body_is_counted(bundles: BundleWriter, start: StartService) -> None:
    bundles.digits()
    service = start(bundles.root)
    with connect(service.client) as connection:
        connection.sendall(request(json.dumps(PICTURE).encode(), DIGITS)[0] + b"{")
        service.client.get("/v2")  # the service has read what was sent before
    wait_for(lambda: 'status="499",version="1"} 1.0' in service.client.get("/metrics").text)


@pytest.mark.parametrize("case", LONG_CASES)
def test_request_that_needs_asgi_does_not_take_the_fast_path(
    served: Service, fast_path_urls: list[bytes], case: str
) -> None:
    with connect(served.client) as connection:
        connection.sendall(b"".join(LONG_CASES[case]))
        status, _, _ = receive(connection)
    assert not fast_path_urls
    assert status == (b"HTTP/1.1 400 Bad Request\r\n" if case == "no host" else b"HTTP/1.1 200 OK\r\n")


@pytest.mark.slow
def test_fast_path_and_asgi_count_and_log_alike(
    bundles: BundleWriter, start: StartService, tmp_path: Any, fast_path_urls: list[bytes]
) -> None:
    bundles.digits()
    log = tmp_path / "access.log"
    service = start(bundles.root, access_log=log)
    body = json.dumps(PICTURE | {"id": "i"}).encode()
    for padding in (b"", b" " * 40_000):
        for sent in (body, b"{", body.replace(b"FP32", b"FP64")):
            service.client.post(DIGITS, content=sent + padding)

    assert len(fast_path_urls) == 3
    wait_for(lambda: log.read_bytes().count(b"/infer") == 6)
    lines = [json.loads(line) for line in log.read_bytes().splitlines() if b"/infer" in line]
    assert [[line["status"], line.get("id"), sorted(line)] for line in lines[:3]] == [
        [line["status"], line.get("id"), sorted(line)] for line in lines[3:]
    ]
    metrics = service.client.get("/metrics").text
    assert 'normfold_requests_total{model="digits",status="200",version="1"} 2.0' in metrics
    assert 'normfold_requests_total{model="digits",status="400",version="1"} 4.0' in metrics
    assert "normfold_requests_in_flight 1.0" in metrics


def test_large_results_of_a_small_request_are_encoded_in_a_thread(
    bundles: BundleWriter, start: StartService, fast_path_urls: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    bundles.identity("FP32")
    service = start(bundles.root)
    monkeypatch.setattr(response_module, "INLINE_BYTES", 100)
    values = list(range(200))
    record = ROWS | {"shape": [100, 2], "data": values}

    response = service.client.post("/v2/models/identity-fp32/infer", json={"inputs": [record]})

    assert fast_path_urls
    assert response.json()["outputs"][0]["data"] == values


def test_pipelined_request_waits_for_the_one_before(
    bundles: BundleWriter, start: StartService, fast_path_urls: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    bundles.digits()
    slow = HeldRuns(monkeypatch)
    service = start(bundles.root)
    slow.holds.set()
    bodies = [json.dumps(PICTURE | {"id": str(number)}).encode() for number in range(3)]
    with connect(service.client) as connection:
        connection.sendall(b"".join(request(bodies[0], DIGITS)))
        assert slow.running.wait(timeout=20)
        connection.sendall(b"".join(request(bodies[1], DIGITS) + request(bodies[2], DIGITS, Connection="close")))
        slow.go_on.set()
        found = read_responses(connection)
    assert [json.loads(body)["id"] for _, body in found] == ["0", "1", "2"]
    assert len(fast_path_urls) == 1


def test_fault_on_the_fast_path_is_500_and_the_connection_goes_on(
    bundles: BundleWriter, start: StartService, fast_path_urls: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    bundles.digits()
    service = start(bundles.root)
    for broken in ("decode_request", "encode_response"):
        with monkeypatch.context() as patch:
            patch.setattr(infer_call, broken, lambda *_: 1 / 0)
            response = service.client.post(DIGITS, json=PICTURE)
        assert response.status_code == 500
        assert "failed unexpectedly" in response.json()["error"]
        assert "division" not in response.text
    assert service.client.post(DIGITS, json=PICTURE).status_code == 200
    assert len(fast_path_urls) == 3
    assert 'status="500",version="1"} 2.0' in service.client.get("/metrics").text


def test_requests_leave_no_reference_cycles(bundles: BundleWriter, start: StartService) -> None:
    """With cycles, memory would grow until the next garbage collection."""
    bundles.digits()
    service = start(bundles.root)
    gc.collect()
    gc.disable()
    try:
        for padding in (b"", b" " * 40_000):
            for _ in range(50):
                assert service.client.post(DIGITS, content=json.dumps(PICTURE).encode() + padding).status_code == 200
        left = [found for found in gc.get_objects() if isinstance(found, QueuedRequest | RequestTrace)]
    finally:
        gc.enable()
    assert len(left) <= 2  # the connection holds the last one
