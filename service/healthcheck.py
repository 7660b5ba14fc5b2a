"""Health check of a container, `python -m normfold.service.healthcheck`.

The exit code is 0 if the service is ready, otherwise 1, with the reason on standard error. It imports the standard
library only, since it runs every few seconds on the processors of the service.
"""

from __future__ import annotations

import http.client
import os
import socket
import sys

_TIMEOUT_S = 4.0

_WILDCARDS = ("0.0.0.0", "::")


class _UnixConnection(http.client.HTTPConnection):
    """A connection to a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def main() -> None:
    """Request the readiness of the service on this machine, where its settings say that it listens."""
    try:
        connection = _open_connection()
        connection.request("GET", "/v2/health/ready")
        response = connection.getresponse()
        text = response.read().decode()
        connection.close()
    except (OSError, http.client.HTTPException) as error:
        sys.exit(f"The service does not answer: {error}")
    if response.status != http.client.OK:
        sys.exit(text)


def _open_connection() -> http.client.HTTPConnection:
    """Return a connection as the variables NORMFOLD_UDS, HOST, PORT and TLS_… say."""
    if path := os.environ.get("NORMFOLD_UDS"):
        return _UnixConnection(path)
    hosts = [host.strip() for host in os.environ.get("NORMFOLD_HOST", "127.0.0.1").split(",")]
    host = next((host for host in hosts if host not in _WILDCARDS), "127.0.0.1")
    port = int(os.environ.get("NORMFOLD_PORT", "8000"))
    certificate = os.environ.get("NORMFOLD_TLS_CERT")
    if not certificate:
        return http.client.HTTPConnection(host, port, timeout=_TIMEOUT_S)
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # the service itself, on its own machine
    if os.environ.get("NORMFOLD_TLS_CLIENT_CA"):
        context.load_cert_chain(certificate, os.environ.get("NORMFOLD_TLS_KEY"))
    return http.client.HTTPSConnection(host, port, timeout=_TIMEOUT_S, context=context)


if __name__ == "__main__":
    main()
