"""A handshake in memory: whether a certificate and its key work, for a client that trusts just this certificate.

`ssl` has no other way to read a certificate, and this one also finds a key that OpenSSL cannot use.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

_MAX_ROUNDS = 10


def handshake(server_context: ssl.SSLContext, certificate: Path) -> dict[str, Any]:
    """Return the facts of the certificate, as `ssl.SSLSocket.getpeercert` does.

    Args:
        server_context: with the certificate and its key; asks for no certificate of the client.
        certificate: file of the certificate, in PEM form.

    Raises:
        ssl.SSLCertVerificationError: it has expired, is not valid yet, or is not one of a server.
        ssl.SSLError: the two do not agree on a handshake.
    """
    client_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client_context.check_hostname = False
    client_context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # the certificate itself is trusted, not its authority
    client_context.load_verify_locations(certificate)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(to_client, to_server)
    server = server_context.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(_MAX_ROUNDS):
        is_client_done, is_server_done = _advance(client.do_handshake), _advance(server.do_handshake)
        if is_client_done and is_server_done:
            return client.getpeercert() or {}
    raise ssl.SSLError("the handshake does not end")


def _advance(do_handshake: Callable[[], None]) -> bool:
    """Return whether a side has ended its handshake."""
    try:
        do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True
