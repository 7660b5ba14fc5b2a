"""Request smuggling: ambiguous requests, requests that trickle in, invalid ones among pipelined ones."""

from __future__ import annotations

import gzip
import json
import select
import socket
import zlib

import numpy as np
import pytest

from normfold.service.http import timeouts
from tests.support.bundles import BundleWriter
from tests.support.infer_bodies import JSON_LENGTH, PICTURE, binary_input
from tests.support.raw_http import INFER_BODY, INFER_HEAD, connect, read_responses
from tests.support.service import AccessLog, HeldRuns, Service, StartService, queued_rows
from tests.support.waiting import wait_for

POST = b"POST /v2/models/none/infer HTTP/1.1\r\nHost: x\r\n"
HIDDEN = b"GET /hidden HTTP/1.1\r\nHost: x\r\n\r\n"
"""A request in a body, if the length of the body is read another way."""

CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"

TWO_READINGS = {
    "length and chunked": POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked and length": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "two lengths": POST + b"Content-Length: 0\r\nContent-Length: %d\r\n\r\n" % len(HIDDEN),
    "one length twice": POST + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
    "list of lengths": POST + b"Content-Length: 2, 2\r\n\r\n{}",
    "length with sign": POST + b"Content-Length: +2\r\n\r\n{}",
    "negative length": POST + b"Content-Length: -2\r\n\r\n{}",
    "hexadecimal length": POST + b"Content-Length: 0x2\r\n\r\n{}",
    "no length": POST + b"Content-Length:\r\n\r\n{}",
    "length over 64 bits": POST + b"Content-Length: 18446744073709551618\r\n\r\n{}",
    "space before the colon": POST + b"Content-Length : %d\r\n\r\n" % len(HIDDEN),
    "tab before the colon": POST + b"Content-Length\t: %d\r\n\r\n" % len(HIDDEN),
    "chunked, space before the colon": POST + b"Transfer-Encoding : chunked\r\nContent-Length: 0\r\n\r\n",
    "folded header": POST + b"X-A: b\r\n Content-Length: %d\r\n\r\n" % len(HIDDEN),
    "folded length": POST + b"Content-Length: 2\r\n 0\r\n\r\n{}",
    "folded chunked": POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    "space before the first header": POST.replace(b"Host", b" Host") + b"Content-Length: 2\r\n\r\n{}",
    "bare LF everywhere": POST.replace(b"\r\n", b"\n") + b"Content-Length: 2\n\n{}",
    "bare LF behind a header": POST + b"X: y\nContent-Length: 2\r\n\r\n{}",
    "bare LF behind the headers": POST + b"Content-Length: 2\r\n\n{}",
    "bare CR": POST + b"X: y\rContent-Length: 2\r\n\r\n{}",
    "NUL": POST + b"X: y\0z\r\nContent-Length: 2\r\n\r\n{}",
    "coding of another name": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "coding in quotes": POST + b'Transfer-Encoding: "chunked"\r\n\r\n0\r\n\r\n',
    "identity": POST + b"Transfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "chunked, then identity": POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "chunked twice": POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "gzip, then chunked": POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunk size with bare LF": CHUNKED + b"2\n{}\r\n0\r\n\r\n",
    "chunk with bare LF": CHUNKED + b"2\r\n{}\n0\r\n\r\n",
    "chunk size with 0x": CHUNKED + b"0x2\r\n{}\r\n0\r\n\r\n",
    "negative chunk size": CHUNKED + b"-2\r\n{}\r\n0\r\n\r\n",
    "chunk size over 64 bits": CHUNKED + b"10000000000000002\r\n{}\r\n0\r\n\r\n",
    "bare LF in a chunk's extension": CHUNKED + b"2;a\nb\r\n{}\r\n0\r\n\r\n",
    "length behind the chunks": CHUNKED + b"0\r\nContent-Length: 50\r\n\r\n",
    "two hosts": POST + b"Host: y\r\nContent-Length: 2\r\n\r\n{}",
    "two lengths of the JSON": POST + b"%b: 2\r\n%b: 0\r\nContent-Length: 2\r\n\r\n{}" % ((JSON_LENGTH.encode(),) * 2),
    "two encodings": POST + b"Content-Encoding: gzip\r\nContent-Encoding: identity\r\nContent-Length: 2\r\n\r\n{}",
    "header without a colon": POST + b"XY\r\nContent-Length: 2\r\n\r\n{}",
    "header without a name": POST + b": y\r\nContent-Length: 2\r\n\r\n{}",
    "tab in the first line": POST.replace(b" HTTP", b"\tHTTP") + b"Content-Length: 2\r\n\r\n{}",
    "another protocol's beginning": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
}


@pytest.mark.parametrize("shape", TWO_READINGS)
def test_ambiguous_request_is_400_and_nothing_after_it_is_read(served: Service, shape: str) -> None:
    with connect(served.client) as connection:
        connection.sendall(TWO_READINGS[shape] + HIDDEN)
        found = read_responses(connection)
    assert [status for status, _ in found] == [400]
    assert json.loads(found[0][1]).keys() == {"error"}


@pytest.mark.parametrize(
    "sent",
    [
        POST + b"Content-Length: 2\r\n\r\n{}",
        CHUNKED + b"2;extension=x\r\n{}\r\n0\r\n\r\n",
        CHUNKED.replace(b"chunked", b"Chunked") + b"2\r\n{}\r\n0\r\n\r\n",
        POST + b"Accept: a\r\nAccept: b\r\nContent-Length: 2\r\n\r\n{}",
        POST + b"Content-Length:2 \r\n\r\n{}",
    ],
)
def test_unambiguous_request_is_served(served: Service, sent: bytes) -> None:
    with connect(served.client) as connection:
        connection.sendall(sent + HIDDEN.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        found = read_responses(connection)
    assert [status for status, _ in found] == [404, 404]
    assert b"/hidden" in found[1][1]


def test_chunked_body_in_http_1_0_ends_the_connection(served: Service) -> None:
    """A proxy of HTTP/1.0 does not know chunks."""
    with connect(served.client) as connection:
        head = CHUNKED.replace(b"HTTP/1.1", b"HTTP/1.0").replace(b"\r\nHost", b"\r\nConnection: keep-alive\r\nHost")
        connection.sendall(head + b"0\r\n\r\n" + HIDDEN)
        assert [status for status, _ in read_responses(connection)] == [404]


def test_invalid_request_among_pipelined_ones_spoils_no_other(served: Service) -> None:
    """One with an invalid body is answered in its place; after a malformed one nothing is read."""
    good, bad = INFER_HEAD % (len(INFER_BODY), b"") + INFER_BODY, INFER_HEAD % (5, b"") + b"wrong"
    with connect(served.client) as connection:
        connection.sendall(good + bad + good + INFER_HEAD % (len(INFER_BODY), b"Connection: close\r\n") + INFER_BODY)
        assert [status for status, _ in read_responses(connection)] == [200, 400, 200, 200]
    with connect(served.client) as connection:
        connection.sendall(good)
        assert connection.recv(12) == b"HTTP/1.1 200"
        connection.sendall(TWO_READINGS["two lengths"] + HIDDEN)
        rest = connection.makefile("rb").read()
    assert rest.count(b"HTTP/1.1 ") == 1
    assert b"HTTP/1.1 400" in rest


@pytest.mark.slow
@pytest.mark.parametrize("head", [b"GET /", INFER_HEAD % (1000, b""), CHUNKED.replace(b"none", b"digits")])
def test_request_that_trickles_in_is_408_however_steadily(
    bundles: BundleWriter, start: StartService, monkeypatch: pytest.MonkeyPatch, head: bytes
) -> None:
    """Bytes of headers, of a body and of chunks, one by one: none of them extends the timeout."""
    monkeypatch.setattr(timeouts, "REAP_INTERVAL_S", 0.02)
    bundles.digits()
    service = start(bundles.root, receive_timeout_s=0.3)
    drop = b"1\r\n \r\n" if b"chunked" in head else b" " if b"\r\n" in head else b"a"
    with connect(service.client) as connection:
        connection.sendall(head)
        drops = 0
        while not select.select([connection], [], [], 0.02)[0]:
            connection.sendall(drop)
            drops += 1
            assert drops < 500
        [(status, body)] = read_responses(connection)
    assert status == 408
    assert b"did not arrive completely within 0.3 s" in body
    assert drops > 1
    assert service.client.get("/v2/health/ready").status_code == 200


def test_many_slow_requests_do_not_delay_others(bundles: BundleWriter, start: StartService) -> None:
    bundles.digits()
    service = start(bundles.root)
    slow = [connect(service.client) for _ in range(200)]
    for connection in slow:
        connection.sendall((INFER_HEAD % (len(INFER_BODY), b"") + INFER_BODY)[:-1])
    assert service.client.post("/v2/models/digits/infer", json=PICTURE).status_code == 200
    for connection in slow:
        connection.sendall(INFER_BODY[-1:])
        assert connection.recv(12) == b"HTTP/1.1 200"
        connection.close()


@pytest.mark.parametrize("chunked", [True, False])
def test_truncated_body_is_counted_as_a_disconnect(served: Service, access_log: AccessLog, chunked: bool) -> None:
    head = CHUNKED.replace(b"none", b"digits") if chunked else INFER_HEAD % (len(INFER_BODY), b"")
    head = head.replace(b"Host", b"X-Request-Id: short\r\nHost")
    with connect(served.client) as connection:
        connection.sendall(head + (b"%x\r\n" % len(INFER_BODY) if chunked else b"") + INFER_BODY[:-10])
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(100) == b""
    assert access_log.facts_of("short")["status"] == 499


def test_bytes_after_a_body_are_not_read_as_its_part(served: Service) -> None:
    with connect(served.client) as connection:
        connection.sendall(INFER_HEAD % (len(INFER_BODY), b"") + INFER_BODY + b"}\r\n\r\n" + HIDDEN)
        assert [status for status, _ in read_responses(connection)] == [200]


@pytest.mark.slow
def test_decompression_bomb_is_413(served: Service) -> None:
    """50 MB in 50 kB, where the limit is 100 kB."""
    bomb = zlib.compress(bytes(50_000_000))
    paths = ["/v2/models/identity-fp32/infer", "/v1/models/rows:predict", "/v1/models/digits:classify"]
    found = [served.client.post(path, content=bomb, headers={"Content-Encoding": "deflate"}) for path in paths]
    assert [response.status_code for response in found] == [413, 413, 413]


def test_body_compressed_twice_is_decompressed_once(served: Service) -> None:
    """The second layer is data."""
    layers = gzip.compress(gzip.compress(json.dumps({"inputs": [binary_input()]}).encode()))
    response = served.client.post(
        "/v2/models/identity-fp32/infer", content=layers, headers={"Content-Encoding": "gzip"}
    )
    assert response.status_code == 400
    assert "is not JSON" in response.json()["error"]


def test_disconnected_client_leaves_the_queue_and_later_requests_are_served(
    bundles: BundleWriter, start: StartService, monkeypatch: pytest.MonkeyPatch, access_log: AccessLog
) -> None:
    bundles.digits()
    slow = HeldRuns(monkeypatch)
    service = start(bundles.root)
    slow.holds.set()
    sent = INFER_HEAD % (len(INFER_BODY), b"Connection: close\r\n") + INFER_BODY
    with connect(service.client) as first, connect(service.client) as last:
        first.sendall(sent)
        assert slow.running.wait(timeout=20)
        with connect(service.client) as leaver:
            leaver.sendall(sent.replace(b"Host", b"X-Request-Id: leaver\r\nHost"))
            wait_for(lambda: queued_rows(service) == 1)
        assert access_log.facts_of("leaver")["status"] == 499
        assert queued_rows(service) == 0
        last.sendall(sent)
        wait_for(lambda: queued_rows(service) == 1)
        slow.go_on.set()
        assert [status for status, _ in read_responses(first) + read_responses(last)] == [200, 200]


def test_pipelined_requests_of_different_shapes_are_all_served(bundles: BundleWriter, start: StartService) -> None:
    """Requests with free sizes besides the rows that are queued together: none is padded, split or rejected."""
    bundles.identity("FP32", "any")
    service = start(bundles.root)
    arrays = [np.arange(rows * columns, dtype=np.float32).reshape(rows, columns) for rows, columns in SHAPES]
    with connect(service.client) as connection:
        for array in arrays:
            tensor = {"name": "input", "datatype": "FP32", "shape": list(array.shape), "data": array.ravel().tolist()}
            body = json.dumps({"inputs": [tensor]}).encode()
            close = b"Connection: close\r\n" if array is arrays[-1] else b""
            connection.sendall(INFER_HEAD.replace(b"digits", b"any") % (len(body), close) + body)
        outputs = [json.loads(body)["outputs"][0] for _, body in read_responses(connection)]
    assert [(output["shape"], output["data"]) for output in outputs] == [
        (list(array.shape), array.ravel().tolist()) for array in arrays
    ]


SHAPES = [(1, 2), (2, 3), (1, 2), (0, 3), (3, 0), (5, 1), (1, 3), (2, 2)]
