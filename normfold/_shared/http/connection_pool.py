"""HTTP requests over connections that are kept: what the client sends and receives, without its meaning."""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, Full, LifoQueue
from urllib.parse import urlsplit

from normfold.errors import ArgumentError, UnreachableError
from normfold.service.codec.binary_tensors import Piece

_REUSABLE_CONNECTIONS = 16
"""Connections that are kept open between requests; more are closed when they have answered."""


@dataclass(frozen=True)
class Response:
    """A whole response.

    Attributes:
        status: of HTTP.
        headers: its fields.
        body: its bytes.
    """

    status: int
    headers: http.client.HTTPMessage
    body: bytes


class ConnectionPool:
    """Connections to one service; each request uses one of its own, so that threads may share a pool.

    Args:
        url: of the service, http or https; a path in it goes before every request's.
        headers: sent with each request.
        timeout_s: seconds for connecting, and between two pieces of a response.
        ssl_context: for https; without it the certificates that the system trusts.

    Raises:
        ArgumentError: `url` is not of http or https.
    """

    def __init__(
        self, url: str, headers: Mapping[str, str], timeout_s: float, ssl_context: ssl.SSLContext | None
    ) -> None:
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:  # for example a port that is no number
            host, port = None, None
        if not host or parts.scheme not in ("http", "https"):
            raise ArgumentError(f"`url` is {url!r}; it must be of http or https, such as http://127.0.0.1:8000.")
        self.url = url.rstrip("/")
        self._host, self._port, self._prefix = host, port, parts.path.rstrip("/")
        self._ssl = (ssl_context or ssl.create_default_context()) if parts.scheme == "https" else None
        self._headers, self._timeout_s = headers, timeout_s
        self._idle: LifoQueue[http.client.HTTPConnection] = LifoQueue(_REUSABLE_CONNECTIONS)
        self._closed = False

    def request(
        self, method: str, path: str, pieces: Sequence[Piece] = (), headers: Mapping[str, str] | None = None
    ) -> Response:
        """Send a request on a connection that is open, or on a new one where the service has closed that meanwhile.

        Args:
            method: of HTTP.
            path: below the URL's, with its query.
            pieces: of the body, sent one after the other; none without a body.
            headers: added to those of every request.

        Raises:
            UnreachableError: there is no connection, or no whole response on it.
        """
        sent = {**self._headers, **(headers or {})}
        if pieces:
            sent["Content-Length"] = str(sum(map(len, pieces)))
        while True:
            connection, is_new = self._connection()
            try:
                with suppress(BrokenPipeError, ConnectionResetError):  # a body too large is answered before it has come
                    connection.request(method, self._prefix + path, iter(pieces) if pieces else None, sent)
                answer = connection.getresponse()
                response = Response(answer.status, answer.headers, answer.read())
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                if not is_new and isinstance(error, ConnectionError):
                    continue
                raise UnreachableError(self.url, _reason(error, self._timeout_s)) from error
            except BaseException:
                connection.close()
                raise
            self._keep(connection)
            return response

    def close(self) -> None:
        """Close the connections."""
        self._closed = True
        while True:
            try:
                self._idle.get_nowait().close()
            except Empty:
                return

    def _connection(self) -> tuple[http.client.HTTPConnection, bool]:
        """Return a connection, and whether it is a new one."""
        try:
            return self._idle.get_nowait(), False
        except Empty:
            pass
        if self._ssl is None:
            return http.client.HTTPConnection(self._host, self._port, timeout=self._timeout_s), True
        return http.client.HTTPSConnection(self._host, self._port, timeout=self._timeout_s, context=self._ssl), True

    def _keep(self, connection: http.client.HTTPConnection) -> None:
        """Keep a connection for the next request, unless the service has closed it or there are enough."""
        if connection.sock is None:
            return
        try:
            if not self._closed:
                self._idle.put_nowait(connection)
                return
        except Full:
            pass
        connection.close()


def _reason(error: Exception, timeout_s: float) -> str:
    if isinstance(error, TimeoutError):
        return f"it did not answer within {timeout_s:g} s."
    if isinstance(error, http.client.BadStatusLine) and not isinstance(error, ConnectionError):
        return "its answer is not of HTTP/1.1."
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
    return f"{text}."
