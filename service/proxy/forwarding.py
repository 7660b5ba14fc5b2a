"""What the setting root_path and the X-Forwarded-… headers of trusted proxies say about a request.

A path loses its prefix here, before anything else looks at it: keys, routes, metrics and logs see /v2/…, whether the
proxy passes the prefix on or strips it. Links get the prefix back.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import NamedTuple

from starlette.types import Scope

from normfold.service.proxy.prefix import check_prefix, is_under
from normfold.service.proxy.trusted_addresses import TrustedAddresses, parse_address

FORWARDED_KEY = "normfold.forwarded"
"""Key of a request's `Forwarded` in the ASGI scope; absent without a proxy and a prefix."""

_PREFIX, _FOR, _PROTO = b"x-forwarded-prefix", b"x-forwarded-for", b"x-forwarded-proto"
_REAL_IP = b"x-real-ip"
_SCHEMES = {b"http": "http", b"https": "https"}

_CACHED = 1024
"""Paths, and values of X-Forwarded-For, of which the results are kept; longer ones are not."""
_MAX_CACHED_BYTES = 512

logger = logging.getLogger(__name__)


class Forwarded(NamedTuple):
    """What is known of a request before it passed the proxies.

    Attributes:
        prefix: that links begin with; empty without one.
        client: address that the request came from; None unless proxies are trusted.
    """

    prefix: str
    client: str | None


class Forwarding:
    """Reads prefixes and X-Forwarded-… headers.

    Args:
        root_path: the setting: the prefix of requests whose proxy names none.
        trusted: proxies whose headers are believed; None: the headers are ignored.
        is_route: whether a path is one of the service's own; it is then served as it is, though it begins with the
            prefix: the prefix /v1 and the path /v1/models.
    """

    def __init__(self, root_path: str, trusted: TrustedAddresses | None, is_route: Callable[[str], bool]) -> None:
        self._root_path, self._trusted, self._is_route = root_path, trusted, is_route
        self._has_warned = False
        self._strip_url = lru_cache(_CACHED)(self._strip_url_uncached)
        self._find_client = lru_cache(_CACHED)(self._find_client_uncached)
        self.is_active = bool(root_path) or trusted is not None

    def prefix(self, headers: Mapping[bytes, bytes], peer: str) -> str:
        """Return the prefix of a request.

        Args:
            headers: the request's.
            peer: address that the connection comes from; empty for a Unix socket.
        """
        given = headers.get(_PREFIX)
        if given is None or self._trusted is None or peer not in self._trusted:
            return self._root_path
        return self._read_prefix(given) or self._root_path

    def client(self, headers: Mapping[bytes, bytes], peer: str) -> str | None:
        """Return the address that a request came from, None if the headers are not read.

        It is the last one of X-Forwarded-For that is not a trusted proxy's: a client can write what it wants before it.
        Without that header it is X-Real-IP's, of a trusted proxy.
        """
        if self._trusted is None:
            return None
        given = headers.get(_FOR) or headers.get(_REAL_IP, b"")
        find = self._find_client if len(given) <= _MAX_CACHED_BYTES else self._find_client_uncached
        return find(given, peer)

    def strip_url(self, url: bytes, headers: Mapping[bytes, bytes], peer: str) -> bytes:
        """Return a request target without the request's prefix."""
        prefix = self.prefix(headers, peer)
        if not prefix:
            return url
        strip = self._strip_url if len(url) <= _MAX_CACHED_BYTES else self._strip_url_uncached
        return strip(url, prefix)

    def strip(self, path: str, prefix: str) -> str:
        """Return a path without a prefix; without root_path, if it has another prefix than the request."""
        for one in (prefix, self._root_path):
            if one and is_under(path, one):
                return path if self._is_route(path) else path[len(one) :] or "/"
        return path

    def adapt(self, scope: Scope) -> Scope:
        """Return an ASGI scope with the path that the service routes; `root_path` is taken into account."""
        headers = join_fields(scope["headers"])
        peer = scope["client"][0] if scope.get("client") else ""
        # A server or an application around this one that has a root_path puts it before every path.
        prefix = self.prefix(headers, peer)
        path, outer = scope["path"], scope.get("root_path", "").rstrip("/")
        if outer:
            prefix = outer if prefix == self._root_path else prefix
            path = path[len(outer) :] or "/" if is_under(path, outer) else path
        adapted = {**scope, "path": self.strip(path, prefix), "root_path": ""}
        adapted[FORWARDED_KEY] = Forwarded(prefix, self.client(headers, peer))
        if self._trusted is not None and peer in self._trusted:
            adapted["scheme"] = _SCHEMES.get(headers.get(_PROTO, b"").strip().lower(), scope.get("scheme", "http"))
        return adapted

    def _find_client_uncached(self, forwarded_for: bytes, peer: str) -> str | None:
        assert self._trusted is not None  # `client` has checked it
        if peer in self._trusted:
            for part in reversed(forwarded_for.decode("latin-1").split(",")):
                address = parse_address(part)
                if address is None:
                    break
                peer = str(address)
                if peer not in self._trusted:
                    break
        return peer or None

    def _strip_url_uncached(self, url: bytes, prefix: str) -> bytes:
        return self.strip(url.decode("latin-1"), prefix).encode("latin-1")

    def _read_prefix(self, given: bytes) -> str:
        """Return a prefix that a proxy gives; empty if it is not one, which is logged once."""
        try:
            return _check_given(given)
        except ValueError as error:
            if not self._has_warned:
                self._has_warned = True
                logger.warning("X-Forwarded-Prefix is ignored: %s. This is logged once.", error)
            return ""


@lru_cache(maxsize=64)
def _check_given(given: bytes) -> str:
    return check_prefix(given.decode("latin-1"))


def join_fields(fields: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Return fields as headers; the values of a header given twice are joined by commas (RFC 9110, 5.3)."""
    headers: dict[bytes, bytes] = {}
    for name, value in fields:
        headers[name] = headers[name] + b"," + value if name in headers else value
    return headers
