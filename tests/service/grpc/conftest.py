"""A service with gRPC that runs in this process, and a client for it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import tritonclient.grpc as triton

from normfold.service.app import create_app
from normfold.service.settings import Settings
from tests.support.bundles import ONNX_TYPES, BundleWriter
from tests.support.proxy.nginx import run_nginx
from tests.support.service import Service, serve_app


@pytest.fixture(scope="module")
def grpc_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with every kind of model, and with gRPC, shared by the tests of a module."""
    writer = BundleWriter(tmp_path_factory.mktemp("repository"))
    writer.digits(1)
    writer.digits(2, bias=1.0)
    writer.rows()
    writer.pair()
    for datatype in ONNX_TYPES:
        writer.identity(datatype)
    settings = Settings(
        repository=writer.root, provider="cpu", grpc_port=0, max_body_bytes=400_000, model_control="explicit"
    )
    with serve_app(create_app(settings), settings) as service:
        for name in sorted(path.name for path in writer.root.iterdir()):
            service.client.post(f"/v2/repository/models/{name}/load")
        yield service


@pytest.fixture(scope="module", params=["direct", "through nginx"])
def grpc_address(
    request: pytest.FixtureRequest, grpc_service: Service, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The address of its gRPC port, or of nginx in front of it."""
    port = grpc_service.app.state.grpc_server.port
    if request.param == "direct":
        yield f"127.0.0.1:{port}"
        return
    with run_nginx(tmp_path_factory.mktemp("nginx"), 9, port) as nginx:  # no HTTP
        yield f"127.0.0.1:{nginx.grpc_port}"


@pytest.fixture(scope="module")
def client(grpc_address: str) -> Iterator[triton.InferenceServerClient]:
    """Triton's synchronous client."""
    with triton.InferenceServerClient(grpc_address) as client:
        yield client
