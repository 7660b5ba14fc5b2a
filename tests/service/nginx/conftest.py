"""A service behind nginx, shared by the tests of a module."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from normfold.service.app import create_app
from normfold.service.settings import Settings
from tests.support.bundles import ONNX_TYPES, BundleWriter
from tests.support.proxy.nginx import ROUTES, Nginx, run_nginx
from tests.support.raw_http import open_client
from tests.support.service import Service, serve_app


@pytest.fixture(scope="module")
def log_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The access log of the service."""
    return tmp_path_factory.mktemp("log") / "access.log"


@pytest.fixture(scope="module")
def proxied(tmp_path_factory: pytest.TempPathFactory, log_file: Path) -> Iterator[Service]:
    """A service that trusts nginx."""
    writer = BundleWriter(tmp_path_factory.mktemp("repository"))
    writer.digits(1)
    writer.rows()
    for datatype in ONNX_TYPES:
        writer.identity(datatype)
    settings = Settings(
        repository=writer.root,
        provider="cpu",
        proxy_headers=True,
        grpc_port=0,
        access_log=log_file,
        max_body_bytes=4_000_000,
    )
    with serve_app(create_app(settings), settings) as service:
        service.wait_until_loaded()
        yield service


@pytest.fixture(scope="module")
def nginx(proxied: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    """Nginx in front of it."""
    port = proxied.client.base_url.port
    assert port is not None
    with run_nginx(tmp_path_factory.mktemp("nginx"), port, proxied.app.state.grpc_server.port) as running:
        yield running


@pytest.fixture(params=ROUTES)
def route(request: pytest.FixtureRequest) -> str:
    """A way through nginx."""
    return str(request.param)


@pytest.fixture
def client(nginx: Nginx, route: str) -> Iterator[httpx.Client]:
    """A client whose requests go through nginx."""
    with open_client(nginx.url(route)) as made:
        yield made
