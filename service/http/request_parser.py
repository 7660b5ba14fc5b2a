"""Parsing of HTTP/1.1 requests with httptools (llhttp), within the limit on headers.

Upgrades to another protocol are ignored, as RFC 9110, section 7.8, allows: everything here is HTTP/1.1.
"""

from __future__ import annotations

from collections.abc import Callable
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
        on_body: takes a part of the body.
    """

    method = b""
    version = "1.1"
    keep_alive = True
    url = b""
    headers: HeaderFields
    is_in_headers = False
    on_body: Callable[[bytes], None]
    _chunk_bytes = 0
    _header_bytes = 0
    _unparsed_body_bytes = 0

    def __init__(self, receiver: RequestReceiver, max_header_bytes: int) -> None:
        self._receiver, self._max_header_bytes = receiver, max_header_bytes
        self.on_body = receiver.body_chunk_received
        self._reset()

    def feed(self, data: bytes) -> None:
        """Parse bytes.

        Raises:
            MalformedRequestError: they are not HTTP.
            HeadersTooLargeError: the headers are over the limit.
        """
        was_in_headers, self._chunk_bytes = self.is_in_headers, len(data)
        while data:
            data = self._take_unparsed_body(data) if self._unparsed_body_bytes else self._parse(data)
        if self.is_in_headers:
            # Of the chunk in which a request begins, only parsed headers count: other requests may precede it.
            self._header_bytes += self._chunk_bytes if was_in_headers else 0
            if self._header_bytes > self._max_header_bytes:
                raise HeadersTooLargeError(self._max_header_bytes)
            self._check_headers()

    def skip_body(self) -> None:
        """Go on after a body that was read past the parser."""
        self._unparsed_body_bytes = 0
        self._reset()
        self.on_message_complete()

    def close(self) -> None:
        """Break the reference cycles: httptools' parser holds this one's methods, and this one the receiver's."""
        del self._parser, self._receiver, self.on_body

    def on_message_begin(self) -> None:
        """Begin a request."""
        self.url, self.headers = b"", []
        self._header_bytes, self.is_in_headers = 0, True
        self._receiver.request_begun()

    def on_url(self, url: bytes) -> None:
        """Take a part of the request target."""
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """End the headers."""
        if self._chunk_bytes + self._header_bytes > self._max_header_bytes:
            self._check_headers()
        self.is_in_headers, parser = False, self._parser
        self.method, self.version = parser.get_method(), parser.get_http_version()
        self.keep_alive = parser.should_keep_alive()
        if parser.should_upgrade():  # httptools takes the request as complete, and leaves its body unparsed
            self._unparsed_body_bytes = declared_length(dict(self.headers)) or 0
        self._receiver.headers_received()

    def on_message_complete(self) -> None:
        """End the request, unless its body is still to be read."""
        if not self._unparsed_body_bytes:
            self._receiver.request_received()

    def _reset(self) -> None:
        self._parser = httptools.HttpRequestParser(self)
        # A request may follow one with `Connection: close`, before its response asks the client to stop.
        self._parser.set_dangerous_leniencies(lenient_data_after_close=True)

    def _parse(self, data: bytes) -> bytes:
        """Parse bytes; return those that follow the headers of a request for an upgrade."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
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
