"""The parser of requests: trailers, upgrades with a chunked body, versions; in one segment and byte by byte."""

from __future__ import annotations

import logging
import socket
import struct

import pytest

from normfold.service.errors import HeadersTooLargeError, MalformedRequestError
from normfold.service.http.request_parser import RequestParser
from tests.support.raw_http import INFER_BODY, INFER_HEAD, connect, read_responses
from tests.support.service import Service
from tests.support.waiting import wait_for

MAX_HEADER_BYTES = 1000

CHUNKED = b"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
UPGRADE = CHUNKED.replace(b"Host", b"Connection: Upgrade\r\nUpgrade: h2c\r\nHost")
GET = b"GET /b HTTP/1.1\r\nHost: y\r\n\r\n"


class Requests:
    """Takes requests from a parser."""

    def __init__(self) -> None:
        self.parser = RequestParser(self, MAX_HEADER_BYTES)
        self.found: list[tuple[bytes, list[tuple[bytes, bytes]], bytes]] = []
        self._body = b""

    def feed(self, sent: bytes, segment: int) -> None:
        """Give the parser bytes in segments."""
        for start in range(0, len(sent), segment):
            self.parser.feed(sent[start : start + segment])

    def request_begun(self) -> None:
        self._body = b""

    def headers_received(self) -> None:
        pass

    def body_chunk_received(self, chunk: bytes) -> None:
        self._body += chunk

    def request_received(self) -> None:
        self.found.append((self.parser.url, self.parser.headers, self._body))


@pytest.mark.parametrize("segment", [1, 7, 1000])
@pytest.mark.parametrize("head", [CHUNKED, UPGRADE], ids=["plain", "upgrade"])
def test_trailers_are_dropped_and_chunks_read_also_where_an_upgrade_is_asked(head: bytes, segment: int) -> None:
    requests = Requests()
    requests.feed(head + b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nHost: z\r\nX-API-Key: k\r\n\r\n" + GET + GET, segment)

    assert [(url, body) for url, _, body in requests.found] == [(b"/a", b"abcde"), (b"/b", b""), (b"/b", b"")]
    assert dict(requests.found[0][1]).keys() <= {b"host", b"transfer-encoding", b"connection", b"upgrade"}
    assert dict(requests.found[0][1])[b"host"] == b"x"
    assert requests.found[1][1] == [(b"host", b"y")]


@pytest.mark.parametrize("segment", [1, 64])
@pytest.mark.parametrize(
    "endless",
    [b"0\r\n" + b"X: y\r\n" * 500, b"0\r\nX: " + b"y" * 3000, b"2;" + b"x" * 3000],
    ids=["trailers", "value of a trailer", "extension of a chunk"],
)
def test_bytes_behind_a_body_are_limited(endless: bytes, segment: int) -> None:
    requests = Requests()

    with pytest.raises(HeadersTooLargeError):
        requests.feed(CHUNKED + b"2\r\nab\r\n" + endless, segment)


@pytest.mark.parametrize("segment", [1, 100])
def test_long_body_is_not_limited(segment: int) -> None:
    requests = Requests()
    requests.feed(CHUNKED + b"7d0\r\n" + b"a" * 2000 + b"\r\n" + b"1\r\nb\r\n" * 500 + b"0\r\n\r\n", segment)
    requests.feed(b"POST /c HTTP/1.1\r\nHost: x\r\nContent-Length: 3000\r\n\r\n" + b"c" * 3000, segment)

    assert [len(body) for _, _, body in requests.found] == [2500, 3000]


@pytest.mark.parametrize("version", [b"0.9", b"2.0"])
def test_other_version_of_http_is_malformed(version: bytes) -> None:
    with pytest.raises(MalformedRequestError):
        Requests().feed(GET.replace(b"1.1", version), 1000)


@pytest.mark.parametrize("sent", [b"GET http://x HTTP/1.1\r\nHost: x\r\n", b"GET http://x?a HTTP/1.1\r\nHost: x\r\n"])
def test_absolute_target_without_a_path_is_the_root(served: Service, sent: bytes) -> None:
    with connect(served.client) as connection:
        connection.sendall(sent + b"Connection: close\r\n\r\n")
        ((status, body),) = read_responses(connection)
    root = served.client.get("/", headers={"Accept-Encoding": "identity"})
    assert (status, body) == (root.status_code, root.content)


@pytest.mark.parametrize("extra", [b"", b"Expect: x\r\n"], ids=["fast path", "ASGI"])
def test_fragment_in_the_target_is_no_part_of_the_name(served: Service, extra: bytes) -> None:
    head = INFER_HEAD.replace(b"/digits/infer", b"/digits#a/infer") % (2, extra + b"Connection: close\r\n")
    with connect(served.client) as connection:
        connection.sendall(head + b"{}")
        ((status, _),) = read_responses(connection)
    assert status == 405


def test_connection_stays_open_if_the_body_comes_without_waiting_for_continue(served: Service) -> None:
    first = INFER_HEAD % (len(INFER_BODY), b"Expect: 100-continue\r\n") + INFER_BODY
    with connect(served.client) as connection:
        connection.sendall(first + b"GET /v2 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert [status for status, _ in read_responses(connection)] == [200, 200]


def test_connections_that_are_reset_at_once_log_nothing(served: Service, caplog: pytest.LogCaptureFixture) -> None:
    url = served.client.base_url
    with caplog.at_level(logging.ERROR):
        for _ in range(100):
            connection = socket.create_connection((url.host, url.port or 80))
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()
        wait_for(lambda: served.client.get("/v2/health/live").status_code == 200)
    assert not caplog.records
