"""Requests that change state are rejected if a web page of another site has sent them.

A browser lets every page send requests to a service on the same machine, even if the page cannot read the responses. A
page can also get the service's address for its own host name (DNS rebinding); its requests then look like those of the
same origin, but their Host header has that name. Programs other than browsers send neither Origin nor Sec-Fetch-Site.
"""

from __future__ import annotations

import re
from ipaddress import ip_address

from normfold.service.auth.authorization import required_scope
from normfold.service.codec.headers import Headers
from normfold.service.errors import ForeignHostError, ForeignOriginError
from normfold.service.settings import Settings

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
"""Methods that change nothing: RFC 9110, 9.2.1."""

_OWN_SITE = frozenset({"same-origin", "none"})
"""Values of Sec-Fetch-Site for a page of the same origin, and for a request that the user has made."""

_PORTS = {"http": "80", "https": "443"}

_ORIGIN = re.compile(r"(https?)://(.+)", re.IGNORECASE)
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]]+)(?::([0-9]*))?")


class CrossSiteCheck:
    """Checks where a request that changes state comes from.

    Args:
        settings: `cors_origins` may send such requests, except `*` without keys; without keys, Host must have a
            loopback name, an address, or one of `allowed_hosts`: a page chooses no address as its name.
    """

    def __init__(self, settings: Settings) -> None:
        self._needs_key = settings.keys is not None
        self._origins = frozenset(origin for origin in settings.cors_origins if origin != "*" or self._needs_key)
        self._allowed_hosts = frozenset(name.lower() for name in settings.allowed_hosts)
        self._is_local = all(is_loopback(host) for host in settings.hosts)

    def check(self, method: str, path: str, headers: Headers, has_address: bool = True) -> None:
        """Check a request; one that changes nothing passes.

        Args:
            method: HTTP method.
            path: percent-decoded, without a prefix.
            headers: names in lower case.
            has_address: whether it came over TCP; no page reaches a Unix socket.

        Raises:
            ForeignOriginError: a page of another origin has sent it.
            ForeignHostError: Host has a name that a page may have chosen.
        """
        if method in _SAFE_METHODS or required_scope(path) != "admin":
            return
        host, origin, site = (
            headers[name].decode("latin-1") if name in headers else None
            for name in (b"host", b"origin", b"sec-fetch-site")
        )
        if origin is not None and not self._origins.isdisjoint({"*", origin}):
            return
        if origin is not None and not _is_same(origin, host or ""):
            raise ForeignOriginError(origin)
        if site is not None and site not in _OWN_SITE:
            raise ForeignOriginError(None)
        is_from_browser = origin is not None or site is not None
        if not self._needs_key and has_address and (self._is_local or is_from_browser):
            self._check_host(host or "")

    def _check_host(self, host: str) -> None:
        found = _HOST.fullmatch(host)
        name = found[1].lower() if found else host
        if not self._allowed_hosts.isdisjoint({"*", name}) or is_loopback(name) or _is_address(name):
            return
        raise ForeignHostError(name)


def is_loopback(host: str) -> bool:
    """Return whether a host name or address is this machine's own: RFC 6761, 6.3, and the loopback networks."""
    name = host.lower().removesuffix(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    return _is_address(name) and ip_address(name.strip("[]")).is_loopback


def _is_address(host: str) -> bool:
    try:
        ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True


def _is_same(origin: str, host: str) -> bool:
    """Return whether an Origin header names the host of a Host header; the scheme may have ended at a proxy."""
    found = _ORIGIN.fullmatch(origin)
    if found is None:  # null, or the scheme of an extension
        return False
    default = _PORTS[found[1].lower()]
    sides = [_HOST.fullmatch(text) for text in (found[2], host)]
    parts = {(side[1].lower(), side[2] or default) if side else None for side in sides}
    return len(parts) == 1 and None not in parts
