"""A connection of HTTP/1.1 that costs the load generator as little processor time as it can.

Requests are bytes that were prepared before; httptools parses responses. On one core this sends ten times as many
requests as aiohttp, which sends fewer than the service answers (docs/decisions/0036-load-generator.md).
"""

from __future__ import annotations

import asyncio
import ssl
from time import perf_counter
from typing import cast

import httptools

from normfold._bench.connections.connection import CONNECTION, TIMEOUT, Done, Failure
from normfold._bench.target import Target
from normfold._shared.http.response_error import error_sentence

REFUSALS = frozenset({429, 503})

_MAX_SENTENCE_BYTES = 4096
_CONNECT_TIMEOUT_S = 10.0


class HttpConnection:
    """A connection to a service; see `Connection`.

    Args:
        target: the service.
        context: of TLS; None without encryption.
    """

    def __init__(self, target: Target, context: ssl.SSLContext | None) -> None:
        self._target, self._context = target, context
        self._stream: _Stream | None = None
        self._opening: asyncio.Task[None] | None = None
        self._message = b""
        self._done: Done = _ignore
        self.started_s: float | None = None

    async def open(self) -> None:
        """Connect.

        Raises:
            OSError: there is no connection.
        """
        loop, target = asyncio.get_running_loop(), self._target
        async with asyncio.timeout(_CONNECT_TIMEOUT_S):
            _, self._stream = await loop.create_connection(
                lambda: _Stream(self), target.host, target.port, ssl=self._context
            )

    def send(self, message: bytes, done: Done) -> None:
        """Send a request, on a new connection where there is none."""
        self._message, self._done, self.started_s = message, done, perf_counter()
        if self._stream is not None:
            self._stream.send(message)
        else:
            self._reopen()

    def give_up(self) -> None:
        """End the request as one that took too long; its answer could still come, so the connection ends too."""
        self._disconnect()
        self.finish(Failure(TIMEOUT, False, "no answer in time"))

    async def close(self) -> None:
        """Close the connection."""
        self.started_s = None
        self._disconnect()

    def finish(self, failure: Failure | None) -> None:
        """End the request; an answer without one, such as a service's to a connection that is idle, is left out."""
        if self.started_s is None:
            return
        self.started_s = None
        self._done(failure)

    def on_lost(self, stream: _Stream, reason: str) -> None:
        """Act on the end of a connection that this side did not close.

        A connection that was kept may be closed by the service just as a request is sent: it is sent again on a new
        one, as all clients do.
        """
        if stream is not self._stream:
            return
        self._stream = None
        if self.started_s is None:
            return
        if stream.responses and not stream.has_begun:
            self._reopen()
        else:
            self.finish(Failure(CONNECTION, False, reason))

    def on_last_response(self) -> None:
        """Act on a response after which the service closes the connection."""
        self._disconnect()

    def _reopen(self) -> None:
        self._opening = asyncio.get_running_loop().create_task(self._open_and_send())

    async def _open_and_send(self) -> None:
        try:
            await self.open()
        except (OSError, TimeoutError) as error:
            self.finish(Failure(CONNECTION, False, str(error) or "connecting took too long"))
            return
        finally:
            self._opening = None
        if self._stream is not None:
            self._stream.send(self._message)

    def _disconnect(self) -> None:
        if self._opening is not None:
            self._opening.cancel()
            self._opening = None
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()


class _Stream(asyncio.Protocol):
    """One connection of TCP: its requests and responses.

    Attributes:
        responses: how many whole ones have come.
        has_begun: a part of the next has come.
    """

    def __init__(self, owner: HttpConnection) -> None:
        self._owner = owner
        self._parser = httptools.HttpResponseParser(self)
        self._body = b""
        self.responses, self.has_begun = 0, False

    def send(self, message: bytes) -> None:
        """Send a request."""
        self._transport.write(message)

    def close(self) -> None:
        """Close, without a word to the owner."""
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)  # uvloop's has no base class of asyncio

    def data_received(self, data: bytes) -> None:
        self.has_begun = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError:  # a fault of this module
            raise
        except httptools.HttpParserError as error:
            self._transport.abort()
            self._owner.on_lost(self, f"the answer is not of HTTP: {error}")

    def connection_lost(self, exc: Exception | None) -> None:
        self._owner.on_lost(self, str(exc) if exc else "the service closed the connection")

    def on_body(self, data: bytes) -> None:
        """Keep the beginning of the body, in which an error has its sentence."""
        if not self._body:
            self._body = data[:_MAX_SENTENCE_BYTES]

    def on_message_complete(self) -> None:
        """Pass the end of a request on to the owner."""
        status, body = self._parser.get_status_code(), self._body
        self._body = b""
        if status < 200:  # 100 Continue and the like come before the response
            return
        self.responses, self.has_begun = self.responses + 1, False
        if not self._parser.should_keep_alive():
            self._owner.on_last_response()
        if status == 200:
            self._owner.finish(None)
        else:
            self._owner.finish(Failure(str(status), status in REFUSALS, error_sentence(body) or ""))


def _ignore(_: Failure | None) -> None:
    """Do nothing: there is no request yet."""
