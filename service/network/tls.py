"""Certificates of the service: read from PEM files, checked, and read again while it serves.

HTTP's connections begin in one context of `ssl`, which hands each of them over to that of the latest certificate: so a
reload changes new connections, all at once, and none that is open. gRPC asks for the latest certificate itself.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from normfold.service.errors import TlsError
from normfold.service.network.tls_check import handshake
from normfold.service.settings import Settings

_CERTIFICATE, _KEY = b"-----BEGIN CERTIFICATE-----", b"PRIVATE KEY-----"
_ENCRYPTED = (b"-----BEGIN ENCRYPTED PRIVATE KEY-----", b"Proc-Type: 4,ENCRYPTED")


@dataclass(frozen=True)
class Pem:
    """The content of the files.

    Attributes:
        certificate: of the service, and of the authorities between it and one that clients trust.
        key: of the certificate.
        client_ca: certificates of the authorities of clients; None if clients need none.
    """

    certificate: bytes
    key: bytes
    client_ca: bytes | None


class Certificates:
    """The certificate of the service, its key, and the authorities of clients.

    Args:
        settings: with a `tls_cert`.

    Attributes:
        context: for a server; it stays the same when the files are loaded again.
        pem: of the latest certificate.
        description: name and end of validity of the latest certificate.

    Raises:
        TlsError: a file cannot be used.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._latest, self.pem, self.description = _load(settings)
        self.context = _make_context(settings)
        self.context.sni_callback = self._choose  # called whether the client names the host or not

    def reload(self) -> None:
        """Load the files again; those of before stay in use if they cannot be used.

        Raises:
            TlsError: a file cannot be used.
        """
        self._latest, self.pem, self.description = _load(self._settings)

    def _choose(self, connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        connection.context = self._latest


def open_certificates(settings: Settings) -> Certificates | None:
    """Return the certificates that the settings name; None if they name none.

    Raises:
        TlsError: a file cannot be used.
    """
    return None if settings.tls_cert is None else Certificates(settings)


def _load(settings: Settings) -> tuple[ssl.SSLContext, Pem, str]:
    """Return the context of a server, the content of the files, and a description of the certificate."""
    assert settings.tls_cert is not None
    pem = _read(settings)
    context = _make_context(settings)
    found = _check(_load_pair(settings.tls_cert, settings.tls_key), settings.tls_cert)
    if _read(settings) != pem:
        raise TlsError("tls_cert", settings.tls_cert, "has changed while it was read; try again")
    return context, pem, _describe(found)


def _read(settings: Settings) -> Pem:
    assert settings.tls_cert is not None
    certificate = _read_file("tls_cert", settings.tls_cert, _CERTIFICATE, "certificate")
    name, path = ("tls_cert", settings.tls_cert) if settings.tls_key is None else ("tls_key", settings.tls_key)
    key = _read_file(name, path, _KEY, "private key")
    if any(mark in key for mark in _ENCRYPTED):
        raise TlsError(name, path, "has a passphrase, which nobody could enter; remove it with 'openssl pkey'")
    client_ca = None
    if settings.tls_client_ca is not None:
        client_ca = _read_file("tls_client_ca", settings.tls_client_ca, _CERTIFICATE, "certificate")
    return Pem(certificate, key, client_ca)


def _read_file(name: str, path: Path, mark: bytes, what: str) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise TlsError(name, path, f"cannot be read: {error.strerror}") from None
    if mark not in content:
        raise TlsError(name, path, f"holds no {what} in PEM form")
    return content


def _make_context(settings: Settings) -> ssl.SSLContext:
    """Return the context of a server, which asks clients for a certificate if the settings say so."""
    assert settings.tls_cert is not None
    context = _load_pair(settings.tls_cert, settings.tls_key)
    context.set_alpn_protocols(["http/1.1"])
    if settings.tls_client_ca is not None:
        _require_client_certificates(context, settings.tls_client_ca, settings.tls_client_auth == "required")
    return context


def _load_pair(certificate: Path, key: Path | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    loads = partial(context.load_cert_chain, certificate, key)
    _call_openssl(loads, "tls_cert", certificate, f"cannot be used with the key of {str(key or certificate)!r}")
    return context


def _require_client_certificates(context: ssl.SSLContext, path: Path, required: bool) -> None:
    _call_openssl(partial(context.load_verify_locations, path), "tls_client_ca", path, "cannot be used")
    context.verify_mode = ssl.CERT_REQUIRED if required else ssl.CERT_OPTIONAL
    # A session that is resumed would not be checked again: not after an authority was removed either.
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0  # of TLS 1.3, which would be kept here instead


def _call_openssl(function: Callable[[], None], name: str, path: Path, problem: str) -> None:
    try:
        function()
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise TlsError(name, path, "begins with a certificate of another key") from None
        raise TlsError(
            name, path, f"{problem} (OpenSSL: {(error.reason or 'it is broken').replace('_', ' ').lower()})"
        ) from None
    except OSError as error:
        raise TlsError(name, path, f"cannot be read: {error.strerror}") from None


def _check(context: ssl.SSLContext, path: Path) -> dict[str, Any]:
    """Return the facts of a certificate that clients accept if they trust it."""
    try:
        return handshake(context, path)
    except ssl.SSLCertVerificationError as error:
        raise TlsError("tls_cert", path, f"would be refused by clients: {error.verify_message}") from None
    except ssl.SSLError as error:
        reason = (error.reason or str(error)).replace("_", " ").lower()
        raise TlsError("tls_cert", path, f"cannot be used with its key (OpenSSL: {reason})") from None


def _describe(facts: dict[str, Any]) -> str:
    """Return name and end of validity of a certificate."""
    names = [value for _, value in facts.get("subjectAltName", ())]
    names += [value for part in facts.get("subject", ()) for key, value in part if key == "commonName"]
    end = datetime.fromtimestamp(ssl.cert_time_to_seconds(facts["notAfter"]), UTC)
    return f"of {names[0] if names else 'no name'!r}, valid until {end:%Y-%m-%d %H:%M} UTC"
