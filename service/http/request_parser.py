"""Parsing of HTTP/1.1 requests with httptools (llhttp), within the limit on headers.

Upgrades to another protocol are ignored, as RFC 9110, section 7.8, allows: everything here is HTTP/1.1. Trailers are
dropped, as section 6.5.1 allows.
"""

from __future__ import annotations

from typing import Protocol

import httptools

from normfold.contract.errors import NormfoldError
from normfold.service.codec.headers import HeaderFields, declared_length
from normfold.service.errors import HeadersTooLargeError, MalformedRequestError


class RequestReceiver(Protocol):
    """Takes the parts of requests as they are parsed."""

    def request_begun(self) -> None:
        """Note that the first byte of a request has arrived."""

    def headers_received(self) -> None:
        """Note that the headers are complete."""

    def body_chunk_received(self, chunk: bytes) -> None:
        """Take a part of the body."""

    def request_received(self) -> None:
        """Note that the request is complete."""


_VERSIONS = frozenset({"1.0", "1.1"})


class RequestParser:
    """The requests of one connection, one after the other.

    Args:
        receiver: takes their parts.
        max_header_bytes: limit on the headers of a request.

    Attributes:
        method: of the request, once its headers are complete.
        version: of HTTP, `1.1` or `1.0`; likewise.
        keep_alive: whether the client lets the connection stay open after the response; likewise.
        url: the request target as it came.
        headers: names in lower case, and values.
        is_in_headers: whether a request has begun whose headers are not complete.
    """

    method = b""
    version = "1.1"
    keep_alive = True
    url = b""
    headers: HeaderFields
    is_in_headers = False
    _chunk_bytes = 0
    _header_bytes = 0
    _bytes_without_body = 0
    """Bytes since the last part of a body: lengths of chunks, and trailers."""
    _unparsed_body_bytes = 0
    _has_unparsed_chunks = False

    def __init__(self, receiver: RequestReceiver, max_header_bytes: int) -> None:
        self._receiver, self._max_header_bytes = receiver, max_header_bytes
        self._reset()

    def feed(self, data: bytes) -> None:
        """Parse bytes.

        Raises:
            MalformedRequestError: they are not HTTP.
            HeadersTooLargeError: the headers, or the trailers, are over the limit.
        """
        was_in_headers, self._chunk_bytes = self.is_in_headers, len(data)
        self._bytes_without_body += len(data)
        while data:
            data = self._take_unparsed_body(data) if self._unparsed_body_bytes else self._parse(data)
        if self.is_in_headers:
            # Of the chunk in which a request begins, only parsed headers count: other requests may precede it.
            self._header_bytes += self._chunk_bytes if was_in_headers else 0
            if self._header_bytes > self._max_header_bytes:
                raise HeadersTooLargeError(self._max_header_bytes)
            self._check_headers()
        elif self._bytes_without_body > self._max_header_bytes:
            raise HeadersTooLargeError(self._max_header_bytes)

    def skip_body(self) -> None:
        """Go on after a body that was read past the parser."""
        self._unparsed_body_bytes = 0
        self._reset()
        self.on_message_complete()

    def close(self) -> None:
        """Break the reference cycles: httptools' parser holds this one's methods, and this one the receiver's."""
        del self._parser, self._receiver

    def on_message_begin(self) -> None:
        """Begin a request."""
        self.url, self.headers = b"", []
        self._header_bytes, self.is_in_headers = 0, True
        self._receiver.request_begun()

    def on_url(self, url: bytes) -> None:
        """Take a part of the request target."""
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; a trailer is dropped."""
        if self.is_in_headers:
            self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """End the headers."""
        if self._chunk_bytes + self._header_bytes > self._max_header_bytes:
            self._check_headers()
        self.is_in_headers, self._bytes_without_body, parser = False, 0, self._parser
        self.method, self.version = parser.get_method(), parser.get_http_version()
        if self.version not in _VERSIONS:
            raise MalformedRequestError
        self.keep_alive = parser.should_keep_alive()
        if parser.should_upgrade():  # httptools takes the request as complete, and leaves its body unparsed
            headers = dict(self.headers)
            self._has_unparsed_chunks = b"transfer-encoding" in headers
            self._unparsed_body_bytes = 0 if self._has_unparsed_chunks else declared_length(headers) or 0
        self._receiver.headers_received()

    def on_body(self, chunk: bytes) -> None:
        """Take a part of the body."""
        self._bytes_without_body = 0
        self._receiver.body_chunk_received(chunk)

    def on_message_complete(self) -> None:
        """End the request, unless its body is still to be read."""
        if not self._unparsed_body_bytes and not self._has_unparsed_chunks:
            self._bytes_without_body = 0
            self._receiver.request_received()

    def _reset(self, callbacks: object | None = None) -> None:
        self._parser = httptools.HttpRequestParser(callbacks or self)
        # A request may follow one with `Connection: close`, before its response asks the client to stop.
        self._parser.set_dangerous_leniencies(lenient_data_after_close=True)

    def _parse(self, data: bytes) -> bytes:
        """Parse bytes; return those that follow the headers of a request for an upgrade."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if self._has_unparsed_chunks:
                self._has_unparsed_chunks = False
                self._reset(_ChunksAfterUpgrade(self))
                self._parser.feed_data(b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n")
            else:
                self._reset()
            return data[upgrade.args[0] :]
        except httptools.HttpParserError as error:  # what a callback raises is its context
            cause = error.__context__
            raise cause if isinstance(cause, NormfoldError) else MalformedRequestError() from None
        return b""

    def _take_unparsed_body(self, data: bytes) -> bytes:
        """Take bytes of a body that httptools has left; return those that follow it."""
        chunk, rest = data[: self._unparsed_body_bytes], data[self._unparsed_body_bytes :]
        self._unparsed_body_bytes -= len(chunk)
        self.on_body(chunk)
        if not self._unparsed_body_bytes:
            self.skip_body()
        return rest

    def _check_headers(self) -> None:
        if sum(len(name) + len(value) + 4 for name, value in self.headers) > self._max_header_bytes:
            raise HeadersTooLargeError(self._max_header_bytes)


class _ChunksAfterUpgrade:
    """Callbacks of httptools for a chunked body that it left unparsed: those of a head made up for it go nowhere."""

    def __init__(self, parser: RequestParser) -> None:
        self._parser, self._is_in_made_up_head = parser, True
        self.on_body, self.on_message_complete = parser.on_body, parser.on_message_complete

    def on_message_begin(self) -> None:
        if not self._is_in_made_up_head:
            self._parser.on_message_begin()

    def on_url(self, url: bytes) -> None:
        if not self._is_in_made_up_head:
            self._parser.on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._is_in_made_up_head:
            self._parser.on_header(name, value)

    def on_headers_complete(self) -> None:
        if not self._is_in_made_up_head:
            self._parser.on_headers_complete()
        self._is_in_made_up_head = False
