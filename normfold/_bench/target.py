"""The address of a service: protocol, host, port, path prefix, encryption."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from normfold.errors import ArgumentError


class Protocol(StrEnum):
    """Protocols that a service can be called by."""

    HTTP = "http"
    GRPC = "grpc"


_SCHEMES = {
    "http": (Protocol.HTTP, False),
    "https": (Protocol.HTTP, True),
    "grpc": (Protocol.GRPC, False),
    "grpcs": (Protocol.GRPC, True),
}
"""Protocol, and whether it is encrypted, by scheme."""

_DEFAULT_PORTS = {False: 80, True: 443}


@dataclass(frozen=True)
class Target:
    """A service, and how it is called.

    Attributes:
        url: as given, without a slash at its end.
        protocol: of the requests.
        host: name or address, an IPv6 address without brackets.
        port: of TCP.
        prefix: path before every path of HTTP, without a slash at its end.
        is_encrypted: TLS.
        key: API key, sent with each request; None without one.
        ca: file (PEM) with the certificates to trust; None for those that the system trusts.
    """

    url: str
    protocol: Protocol
    host: str
    port: int
    prefix: str
    is_encrypted: bool
    key: str | None = None
    ca: Path | None = None

    @property
    def authority(self) -> str:
        """Host and port, as headers of HTTP and names of gRPC have them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def http_url(self) -> str:
        """The URL for HTTP."""
        return f"http{'s' * self.is_encrypted}://{self.authority}{self.prefix}"

    def headers(self) -> dict[str, str]:
        """Return the headers of HTTP with the key."""
        return {} if self.key is None else {"Authorization": f"Bearer {self.key}"}

    def ssl_context(self) -> ssl.SSLContext | None:
        """Return the context of TLS; None without encryption.

        Raises:
            ArgumentError: `ca` cannot be read, or holds no certificate.
        """
        if not self.is_encrypted:
            return None
        try:
            return ssl.create_default_context(cafile=self.ca)
        except OSError as error:  # of which ssl.SSLError is one
            reason = error.strerror or str(error)
            raise ArgumentError(f"`ca` {str(self.ca)!r} cannot be used: {reason}.") from None


def parse_target(url: str, protocol: str | None, key: str | None = None, ca: Path | None = None) -> Target:
    """Parse the URL of a service.

    Args:
        url: of http, https, grpc or grpcs.
        protocol: http or grpc; None for that of the URL. With grpc, http and https stand for grpc and grpcs.
        key: API key.
        ca: file of certificates to trust.

    Raises:
        ArgumentError: the URL cannot be used, or does not go with the protocol, or `ca` cannot be used.
    """
    parts = _split(url)
    found, is_encrypted = _SCHEMES[parts.scheme]
    if protocol is not None and protocol not in list(Protocol):
        raise ArgumentError(f"`protocol` must be {' or '.join(Protocol)}, not {protocol!r}.")
    if protocol == Protocol.HTTP and found is Protocol.GRPC:
        raise ArgumentError(f"`url` {url!r} is of {parts.scheme}, which does not go with `protocol` http.")
    chosen = found if protocol is None else Protocol(protocol)
    prefix = parts.path.rstrip("/")
    if chosen is Protocol.GRPC and prefix:
        raise ArgumentError(f"`url` {url!r} has the path {parts.path!r}; gRPC has no paths.")
    if key is not None and not (key.isascii() and key.isprintable()):
        raise ArgumentError("`key` has characters that no key has.")
    if ca is not None and not is_encrypted:
        raise ArgumentError(f"`ca` is for https and grpcs; `url` is {url!r}.")
    port = parts.port if parts.port is not None else _DEFAULT_PORTS[is_encrypted]
    target = Target(url.rstrip("/"), chosen, parts.hostname or "", port, prefix, is_encrypted, key, ca)
    target.ssl_context()  # gRPC reads the file later, and does not say what is wrong with it
    return target


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        is_usable = parts.scheme in _SCHEMES and bool(parts.hostname) and parts.port != 0
    except ValueError:  # for example a port that is not a number
        is_usable = False
    if not is_usable or parts.query or parts.fragment or parts.username is not None or not url.isprintable():
        raise ArgumentError(
            f"`url` is {url!r}; it must be of http, https, grpc or grpcs, such as http://127.0.0.1:8000 or "
            "grpc://127.0.0.1:8001, without user, query and fragment."
        )
    return parts
