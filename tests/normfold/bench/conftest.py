"""A server that describes a model as the protocol says, and answers infer requests as a test wants."""

from __future__ import annotations

import json
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

METADATA = {"name": "m", "versions": ["1"], "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}]}

Answer = Callable[[int], tuple[int, str] | None]
"""From the number of an infer request, from 0, to status and sentence; None closes the connection without an answer."""


@dataclass
class PretendedService:
    """A server in this process.

    Attributes:
        url: of the server.
        bodies: of infer requests, in order.
        paths: of all requests, in order.
    """

    url: str
    bodies: list[bytes] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)


@contextmanager
def pretended_service(answer: Answer, keeps_connections: bool, certificate: Path | None) -> Iterator[PretendedService]:
    """Run a server in a thread, with TLS where there is a certificate."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            service.paths.append(self.path)
            known = {"/v2": {"extensions": ["binary_tensor_data"]}, "/v2/models/m": METADATA}
            found = known.get(self.path.removeprefix("/prefix"))
            self._respond(200 if found else 404, found or {"error": "There is nothing here."})

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            with lock:
                number = len(service.bodies)
                service.bodies.append(body)
                service.paths.append(self.path)
            answered = answer(number)
            if answered is None:
                self.close_connection = True
                return
            status, sentence = answered
            self._respond(status, {"error": sentence} if sentence else {"outputs": []})
            self.close_connection = self.close_connection or not keeps_connections

        def _respond(self, status: int, record: object) -> None:
            data = json.dumps(record).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            """Write nothing."""

    class Server(ThreadingHTTPServer):
        request_queue_size = 128
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            """Write nothing: clients may leave before their answer."""

    with Server(("127.0.0.1", 0), Handler) as server:
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate, certificate.with_suffix(".key"))
            server.socket = context.wrap_socket(server.socket, server_side=True)
        service = PretendedService(f"http{'s' * (certificate is not None)}://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield service
        finally:
            server.shutdown()
            thread.join()


StartPretended = Callable[..., PretendedService]
"""Type of the fixture `pretend_service`: a function of `answer`, `keeps_connections` and `certificate`."""


@pytest.fixture
def pretend_service() -> Iterator[StartPretended]:
    """Return a function that runs a server until the test ends; without an argument it answers everything with 200."""
    with ExitStack() as stack:

        def start(
            answer: Answer = lambda _: (200, ""), keeps_connections: bool = True, certificate: Path | None = None
        ) -> PretendedService:
            return stack.enter_context(pretended_service(answer, keeps_connections, certificate))

        yield start


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate for 127.0.0.1 that signs itself, beside its key."""
    path = tmp_path / "server.crt"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=127.0.0.1"
    files = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(path.with_suffix(".key")), "-out", str(path)]
    subprocess.run([*command.split(), *files], check=True, capture_output=True)
    return path
