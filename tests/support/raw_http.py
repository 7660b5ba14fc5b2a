"""Clients of a service: httpx, HTTP/1.1 written and read as bytes, and certificates of both sides.

Certificates are made by the program `openssl`, so that no package is needed for tests alone.
"""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.support.infer_bodies import PICTURE

INFER_HEAD = b"POST /v2/models/digits/infer HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n%b\r\n"
"""Head of an infer request: the length of its body, and more header lines, each with its line end."""

INFER_BODY = json.dumps(PICTURE).encode()
"""Body of an infer request of one picture."""


def open_client(url: httpx.URL | str) -> httpx.Client:
    """Open a client of a service on this machine."""
    # Without verify=False, each client reads the certificates of all authorities first, which takes 0.1 s.
    return httpx.Client(base_url=url, timeout=20, trust_env=False, verify=False)


def open_unix_client(path: str | Path) -> httpx.Client:
    """Open a client of a service on a Unix socket."""
    return httpx.Client(
        base_url="http://service", timeout=20, trust_env=False, transport=httpx.HTTPTransport(uds=str(path))
    )


def connect(client: httpx.Client) -> socket.socket:
    """Open a connection to the service that a client is for."""
    return socket.create_connection((client.base_url.host, client.base_url.port or 80), timeout=20)


def read_responses(connection: socket.socket) -> list[tuple[int, bytes]]:
    """Read responses until the server closes the connection; return (status, body) of each."""
    file, found = connection.makefile("rb"), []
    while line := file.readline():
        status, length = int(line.split()[1]), 0
        while (field := file.readline().lower()) not in (b"\r\n", b""):
            length = int(field.split(b":")[1]) if field.startswith(b"content-length") else length
        found.append((status, file.read(length)))
    return found


OPENSSL_CA = """[ca]
default_ca = authority
[authority]
database = {folder}/index
serial = {folder}/serial
new_certs_dir = {folder}
default_md = sha256
policy = names
[names]
commonName = supplied
"""
"""Configuration of `openssl ca`, which alone can give a certificate any dates."""


@dataclass(frozen=True)
class IssuedCertificate:
    """Files of a certificate and its key, in PEM form."""

    certificate: Path
    key: Path

    @property
    def options(self) -> tuple[str, ...]:
        """Options of `normfold serve` that name the files."""
        return ("--tls-cert", str(self.certificate), "--tls-key", str(self.key))

    @property
    def der(self) -> bytes:
        """The certificate, as a client sees it."""
        return ssl.PEM_cert_to_DER_cert(self.certificate.read_text())


class Authority:
    """An authority that issues certificates for this machine.

    Args:
        folder: for its files; it is made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        self.certificate, self._key = folder / "authority.pem", folder / "authority.key"
        openssl(*_NEW, "-subj", "/CN=authority", "-days", "2", "-keyout", self._key, "-out", self.certificate)

    def issue(self, name: str = "service", *more: str) -> IssuedCertificate:
        """Return a certificate of 127.0.0.1, ::1 and localhost; `more` are arguments of `openssl req`."""
        issued = IssuedCertificate(self.folder / f"{name}.pem", self.folder / f"{name}.key")
        names = "subjectAltName=DNS:localhost,IP:127.0.0.1,IP:::1"
        signed = ("-CA", self.certificate, "-CAkey", self._key, "-days", "2", "-addext", names)
        basic = ("-addext", "basicConstraints=critical,CA:FALSE")
        openssl(
            *_NEW, "-subj", f"/CN={name}", *signed, *basic, *more, "-keyout", issued.key, "-out", issued.certificate
        )
        return issued

    def issue_dated(self, name: str, start: str, end: str) -> IssuedCertificate:
        """Return a certificate that is valid between two dates, such as 20200101000000Z."""
        issued = IssuedCertificate(self.folder / f"{name}.pem", self.folder / f"{name}.key")
        request, config = self.folder / f"{name}.csr", self.folder / "ca.cnf"
        config.write_text(OPENSSL_CA.format(folder=self.folder))
        (self.folder / "index").write_text("")
        (self.folder / "serial").write_text("01")
        openssl("req", "-new", *_NEW_KEY, "-subj", f"/CN={name}", "-keyout", issued.key, "-out", request)
        signer = ("-cert", self.certificate, "-keyfile", self._key, "-startdate", start, "-enddate", end)
        openssl("ca", "-batch", "-notext", "-config", config, "-in", request, *signer, "-out", issued.certificate)
        return issued

    def client_context(self, issued: IssuedCertificate | None = None) -> ssl.SSLContext:
        """Return the context of a client that trusts this authority only, and may have a certificate."""
        context = ssl.create_default_context(cafile=self.certificate)
        if issued is not None:
            context.load_cert_chain(issued.certificate, issued.key)
        return context


_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
_NEW = ("req", "-x509", *_NEW_KEY)


def openssl(*arguments: str | Path) -> None:
    """Run `openssl`."""
    done = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
