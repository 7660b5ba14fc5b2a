"""A real nginx in front of a service: the example of deploy/nginx, and variants of it."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from scripts.system_packages import SEARCH_PATH
from tests.support.paths import ROOT

EXAMPLE = ROOT / "deploy" / "nginx" / "normfold.conf"

STRIPPED, PASSED_ON = "prefix stripped", "prefix passed on"
PLAIN, UNBUFFERED = "no prefix", "no prefix, unbuffered"
ROUTES = {STRIPPED: "/ml", PASSED_ON: "/ml", PLAIN: "", UNBUFFERED: ""}
"""Ways through nginx, and the path that each of them puts before the service's."""

_UNBUFFERED = "proxy_buffering off; proxy_request_buffering off;"
_VARIANTS = {
    STRIPPED: {},
    PASSED_ON: {"proxy_pass http://normfold/;": "proxy_pass http://normfold;"},
    PLAIN: {"location /ml/ {": "location / {", "X-Forwarded-Prefix /ml;": 'X-Forwarded-Prefix "";'},
}
_VARIANTS[UNBUFFERED] = {**_VARIANTS[PLAIN], "gzip on;": f"gzip off; {_UNBUFFERED}"}
"""What each of them changes in the example."""

_FRAME = """
daemon off;
worker_processes 1;
{user}pid nginx.pid;
error_log error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
{servers}
}}
"""


@dataclass(frozen=True)
class Nginx:
    """A running nginx.

    Attributes:
        ports: of each of ROUTES.
        grpc_port: of gRPC.
        folder: with its error.log.
    """

    ports: Mapping[str, int]
    grpc_port: int
    folder: Path

    def url(self, route: str) -> str:
        """Return the service's URL by one of ROUTES."""
        return f"http://127.0.0.1:{self.ports[route]}{ROUTES[route]}"


@contextlib.contextmanager
def run_nginx(folder: Path, port: int, grpc_port: int) -> Iterator[Nginx]:
    """Run nginx in front of a service's ports; each way through it has a port of its own."""
    program = shutil.which("nginx", path=SEARCH_PATH)
    if program is None:
        pytest.skip("no nginx; make system-packages installs it")
    with contextlib.ExitStack() as stack:
        # nginx takes open sockets over from its environment, as in an upgrade: no port can be taken in between.
        listeners = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in (*ROUTES, "grpc")]
        ports = dict(zip((*ROUTES, "grpc"), (one.getsockname()[1] for one in listeners), strict=True))
        (folder / "nginx.conf").write_text(_configuration(ports, port, grpc_port))
        descriptors = [one.fileno() for one in listeners]
        process = subprocess.Popen(
            [program, "-p", folder, "-c", "nginx.conf", "-e", "stderr"],
            pass_fds=descriptors,
            env=os.environ | {"NGINX": "".join(f"{one};" for one in descriptors)},
            stderr=subprocess.PIPE,
            text=True,
        )
        grpc = ports.pop("grpc")
        try:
            yield Nginx(ports, grpc, folder)
        finally:
            process.terminate()
            _, printed = process.communicate(timeout=20)
        assert process.returncode == 0, printed


def _configuration(ports: Mapping[str, int], port: int, grpc_port: int) -> str:
    """Return the example's configuration, its HTTP server once for each of ROUTES."""
    example = EXAMPLE.read_text()
    upstreams, http, grpc = example.partition("\nserver {")[0], *_servers(example)
    upstreams = _replace(upstreams, {"127.0.0.1:8000": f"127.0.0.1:{port}", "127.0.0.1:8001": f"127.0.0.1:{grpc_port}"})
    servers = [
        _replace(http, {"listen 80;": f"listen 127.0.0.1:{ports[route]};", **changes})
        for route, changes in _VARIANTS.items()
    ]
    servers.append(_replace(grpc, {"listen 8081 http2;": f"listen 127.0.0.1:{ports['grpc']} http2;"}))
    user = "user root;\n" if os.geteuid() == 0 else ""  # its worker process must write below the test's folder
    return _FRAME.format(user=user, servers="\n".join((upstreams, *servers)))


def _servers(example: str) -> list[str]:
    return ["server {" + part for part in example.split("\nserver {")[1:]]


def _replace(text: str, changes: Mapping[str, str]) -> str:
    for old, new in changes.items():
        assert old in text, f"{EXAMPLE} has no {old!r}"
        text = text.replace(old, new)
    return text
