"""Bodies with wrong lengths, sizes and encodings; slow clients, and clients that disconnect."""

from __future__ import annotations

import gzip
import json
import socket
import threading
import zlib
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from normfold.contract.manifest import TensorSpec
from normfold.service.codec.compression import accepted_encoding
from normfold.service.codec.request import decode_raw_tensor, decode_request
from normfold.service.codec.signature import ModelSignature
from normfold.service.errors import InvalidRequestError
from tests.support.bundles import BundleWriter
from tests.support.infer_bodies import JSON_LENGTH, PICTURE, binary_input
from tests.support.service import AccessLog, HeldRuns, Service, StartService, post_picture, queued_rows
from tests.support.waiting import wait_for


def send(served: Service, record: Any, raw: bytes = bytes(8), length: Any = None, **headers: str) -> httpx.Response:
    head = record if isinstance(record, bytes) else json.dumps(record).encode()
    fields = {JSON_LENGTH: str(len(head) if length is None else length)} | headers
    return served.client.post("/v2/models/identity-fp32/infer", content=head + raw, headers=fields)


@pytest.mark.parametrize(
    ("record", "raw", "message"),
    [
        ({"inputs": [binary_input(size=12)]}, bytes(8), "has a binary_data_size of 12, and the body has 8 bytes left"),
        ({"inputs": [binary_input(size=4)]}, bytes(8), "has 4 bytes where FP32 [1, 2] needs 8"),
        ({"inputs": [binary_input()]}, bytes(9), "1 bytes after the JSON belong to no input"),
        ({"inputs": [binary_input()]}, b"", "has a binary_data_size of 8, and the body has 0 bytes left"),
        ({"inputs": [binary_input(size=-1)]}, b"", "binary_data_size that is not a non-negative integer"),
        ({"inputs": [binary_input(size=True)]}, b"", "binary_data_size that is not a non-negative integer"),
        ({"inputs": [binary_input(size="8")]}, b"", "binary_data_size that is not a non-negative integer"),
        ({"inputs": [binary_input(data=[1, 2])]}, bytes(8), "both data and a binary_data_size"),
        ({"inputs": [binary_input(shape=(1, -2))]}, bytes(8), "not a list of non-negative integers"),
        ({"inputs": [binary_input(parameters=[])]}, bytes(8), "its parameters are not an object"),
    ],
)
def test_binary_data_size_that_does_not_fit_the_body_is_rejected(
    served: Service, record: Any, raw: bytes, message: str
) -> None:
    response = send(served, record, raw)

    assert response.status_code == 400
    assert message in response.json()["error"]


@pytest.mark.parametrize("size", [2**63 - 1, 2**64 - 1])
def test_shape_beyond_the_size_of_arrays_is_rejected(served: Service, size: int) -> None:
    record = {"name": "input", "datatype": "FP32", "shape": [0, size], "data": []}

    for filler in ("", " " * 40_000):
        response = served.client.post(
            "/v2/models/identity-fp32/infer", content=json.dumps({"inputs": [record]}).encode() + filler.encode()
        )
        assert response.status_code == 400
        assert "sizes are too large" in response.json()["error"]


@pytest.mark.parametrize("key", ["a\0b", "/", "", "~1"])
def test_unknown_fields_of_any_name_and_depth_are_ignored_in_large_bodies(served: Service, key: str) -> None:
    deep = "[" * 900 + "]" * 900
    record = {"name": "input", "datatype": "FP32", "shape": [100, 100], "data": [0.5] * 10_000}
    body = json.dumps({key: 1, "inputs": [record]})[:-1] + f', "deep": {deep}}}'

    assert served.client.post("/v2/models/identity-fp32/infer", content=body.encode()).status_code == 200


@pytest.mark.parametrize("length", ["-1", "many", "9" * 30, "1e2", ""])
def test_json_length_header_that_is_no_length_is_rejected(served: Service, length: str) -> None:
    response = send(served, {"inputs": [binary_input()]}, length=length)

    assert response.status_code == 400
    assert "Inference-Header-Content-Length" in response.json()["error"]


@pytest.mark.parametrize(("length", "message"), [(10_000, "The JSON should have 10000 bytes"), (3, "is not JSON")])
def test_json_length_header_that_does_not_fit_the_body_is_rejected(served: Service, length: int, message: str) -> None:
    response = send(served, {"inputs": [binary_input()]}, length=length)

    assert response.status_code == 400
    assert message in response.json()["error"]


def test_body_without_json_is_the_tensor_of_the_only_input(bundles: BundleWriter, start: StartService) -> None:
    bundles.digits()
    pictures = np.arange(32, dtype=np.float32).reshape(2, 1, 4, 4)
    client = start(bundles.root).client

    response = client.post("/v2/models/digits/infer", content=pictures.tobytes(), headers={JSON_LENGTH: "0"})

    assert response.headers["content-type"] == "application/octet-stream"
    head = int(response.headers[JSON_LENGTH])
    assert json.loads(response.content[:head])["outputs"][0]["shape"] == [2, 3]
    logits = np.frombuffer(response.content[head:], np.float32).reshape(2, 3)
    np.testing.assert_array_equal(logits, pictures[:, 0].sum(axis=1)[:, :3])


@pytest.mark.parametrize(
    ("specs", "body", "message"),
    [
        ([("a", "FP32", (-1, 2)), ("b", "FP32", (1,))], bytes(8), "the tensor of one input"),
        ([("a", "FP32", (-1, -1))], bytes(8), "2 free sizes"),
        ([("a", "FP32", (-1, 3))], bytes(8), "has 8 bytes where FP32"),
        ([("a", "BYTES", (2,))], b"x", "takes 2 strings"),
    ],
)
def test_raw_tensor_whose_shape_does_not_follow_is_rejected(specs: Any, body: bytes, message: str) -> None:
    inputs = [TensorSpec(name=name, datatype=datatype, shape=shape) for name, datatype, shape in specs]

    with pytest.raises(InvalidRequestError, match=message):
        decode_raw_tensor(memoryview(body), ModelSignature(inputs, ()))


def test_raw_text_is_one_element() -> None:
    ports = ModelSignature([TensorSpec(name="a", datatype="BYTES", shape=(-1, 1))], ())

    assert decode_raw_tensor(memoryview("größer".encode()), ports).tensors["a"].tolist() == [["größer"]]


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"\x01\x00", "ends within the length of an element"),
        (b"\x05\x00\x00\x00ab", "ends within element 0"),
        (b"\x01\x00\x00\x00\xff", "not UTF-8"),
        (b"\x00\x00\x00\x00\x00\x00\x00\x00", "has 2 elements where its shape"),
    ],
)
def test_binary_strings_with_wrong_lengths_are_rejected(raw: bytes, message: str) -> None:
    ports = ModelSignature([TensorSpec(name="a", datatype="BYTES", shape=(1,))], ())
    parameters = {"binary_data_size": len(raw)}
    record = {"inputs": [{"name": "a", "datatype": "BYTES", "shape": [1], "parameters": parameters}]}

    with pytest.raises(InvalidRequestError, match=message):
        decode_request(record, ports, memoryview(raw))


@given(
    head=st.binary(max_size=200),
    raw=st.binary(max_size=40),
    size=st.integers(-2, 50),
    shape=st.lists(st.integers(-1, 4)),
)
def test_any_bytes_are_decoded_or_an_invalid_request(head: bytes, raw: bytes, size: int, shape: list[int]) -> None:
    ports = ModelSignature([TensorSpec(name="input", datatype="FP32", shape=(-1, 2))], ())
    record = {"inputs": [binary_input(size, shape)], "id": head.hex()}

    try:
        request = decode_request(record, ports, memoryview(raw))
    except InvalidRequestError:
        return
    assert request.tensors["input"].nbytes == len(raw)


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_compressed_body_is_decompressed_and_its_json_length_counts_plain_bytes(served: Service, encoding: str) -> None:
    head = json.dumps({"inputs": [binary_input(1600, (1, 400))]}).encode()
    compress = gzip.compress if encoding == "gzip" else zlib.compress
    fields = {JSON_LENGTH: str(len(head)), "Content-Encoding": encoding, "Accept-Encoding": encoding}

    response = served.client.post(
        "/v2/models/identity-fp32/infer", content=compress(head + np.ones(400, np.float32).tobytes()), headers=fields
    )

    assert response.status_code == 200
    assert response.headers["content-encoding"] == encoding
    assert response.json()["outputs"][0]["data"] == [1.0] * 400


@pytest.mark.parametrize(
    ("encoding", "body", "status", "message"),
    [
        ("br", b"x", 415, "'br' is not supported"),
        ("gzip", b"nothing of the kind", 400, "is not gzip"),
        ("gzip", gzip.compress(b"{}")[:-4], 400, "is truncated"),
        ("deflate", zlib.compress(b"{}") + b"x", 400, "bytes after the end"),
        ("gzip", gzip.compress(bytes(50_000_000)), 413, "over the limit"),
    ],
    ids=["unknown", "not-gzip", "cut", "longer", "bomb"],
)
def test_body_that_is_not_in_its_content_encoding_is_rejected(
    served: Service, encoding: str, body: bytes, status: int, message: str
) -> None:
    response = served.client.post(
        "/v2/models/identity-fp32/infer", content=body, headers={"Content-Encoding": encoding}
    )

    assert response.status_code == status
    assert message in response.json()["error"]
    assert response.headers.get("accept-encoding") == ("gzip, deflate" if status == 415 else None)


def test_repository_index_takes_a_compressed_body(served: Service) -> None:
    path, body = "/v2/repository/index", b'{"ready": true}'
    found = [
        served.client.post(path, content=sent, headers={"Content-Encoding": encoding})
        for encoding, sent in (("identity", body), ("gzip", gzip.compress(body)), ("br", body))
    ]

    assert [response.status_code for response in found] == [200, 200, 415]
    assert found[0].json() == found[1].json() != []


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (b"gzip, deflate, br", b"gzip"),
        (b"deflate", b"deflate"),
        (b"br, zstd", None),
        (b"gzip;q=0, deflate;q=0.5", b"deflate"),
        (b"", None),
        (b"*", None),
    ],
)
def test_accept_encoding_selects_gzip_or_deflate(header: bytes, expected: bytes | None) -> None:
    assert accepted_encoding(header) == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    "sent", [b"POST /v2/mod", b"POST /v2/models/digits/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{"]
)
def test_request_that_does_not_arrive_in_time_is_408(bundles: BundleWriter, start: StartService, sent: bytes) -> None:
    service = start(bundles.root, wait=False, receive_timeout_s=0.2)
    port = httpx.URL(service.client.base_url).port
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(sent)
        response = connection.makefile("rb").read()
    assert response.startswith(b"HTTP/1.1 408")
    assert json.loads(response.split(b"\r\n\r\n", 1)[1])["error"].startswith(
        "The request did not arrive completely within 0.2 s"
    )


def test_headers_without_end_are_431(bundles: BundleWriter, start: StartService) -> None:
    service = start(bundles.root, wait=False, max_header_bytes=2048)
    port = httpx.URL(service.client.base_url).port
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(b"GET /v2 HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 500)
        response = connection.makefile("rb").read()
    assert response.startswith(b"HTTP/1.1 431")


def test_connection_over_the_limit_is_503(bundles: BundleWriter, start: StartService) -> None:
    service = start(bundles.root, wait=False, max_connections=1)
    assert service.client.get("/v2/health/live").status_code == 200  # this client's connection stays open
    port = httpx.URL(service.client.base_url).port
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        response = connection.makefile("rb").read()
    assert response.startswith(b"HTTP/1.1 503")
    assert b"retry-after: 1\r\n" in response
    assert b"Too many connections" in response


def test_full_queue_is_503_with_retry_after_and_queued_requests_are_served(
    bundles: BundleWriter, start: StartService, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundles.digits()
    slow = HeldRuns(monkeypatch)
    service = start(bundles.root, queue_capacity=1)
    slow.holds.set()
    statuses: list[int] = []
    threads = []
    for _ in range(2):
        threads.append(threading.Thread(target=lambda: statuses.append(post_picture(service).status_code)))
        threads[-1].start()
        slow.running.wait(timeout=20)
    wait_for(lambda: queued_rows(service) == 1)

    refused = post_picture(service, id="abc")

    assert refused.status_code == 503
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.json()["error"].startswith("[request id: abc] The model's queue is full: 1 rows may wait.")
    slow.go_on.set()
    for thread in threads:
        thread.join(timeout=20)
    assert statuses == [200, 200]


def test_deadline_of_the_client_is_504(
    bundles: BundleWriter, start: StartService, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundles.digits()
    slow = HeldRuns(monkeypatch)
    service = start(bundles.root)
    slow.holds.set()

    response = post_picture(service, parameters={"timeout": 50_000})

    slow.go_on.set()
    assert response.status_code == 504
    assert "deadline" in response.json()["error"]


def test_disconnect_of_the_client_cancels_its_run(
    bundles: BundleWriter, start: StartService, monkeypatch: pytest.MonkeyPatch, access_log: AccessLog
) -> None:
    bundles.digits()
    slow = HeldRuns(monkeypatch)
    service = start(bundles.root)
    slow.holds.set()
    body = json.dumps(PICTURE).encode()
    head = b"POST /v2/models/digits/infer HTTP/1.1\r\nHost: x\r\nX-Request-Id: leaver\r\nContent-Length: %d\r\n\r\n"
    port = httpx.URL(service.client.base_url).port
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(head % len(body) + body)
        assert slow.running.wait(timeout=20)

    assert access_log.facts_of("leaver")["status"] == 499
    assert slow.cancels[0].is_set
    slow.go_on.set()
    assert post_picture(service).status_code == 200
