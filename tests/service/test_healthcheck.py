"""The health check of a container, against a running service."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from typing import Any

import pytest

from tests.support.service import Service


def probe(port: int) -> subprocess.CompletedProcess[str]:
    """Run the check as a container's engine does."""
    environment = os.environ | {"NORMFOLD_PORT": str(port)}
    command = [sys.executable, "-m", "normfold.service.healthcheck"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_healthcheck_passes_for_a_ready_service(served: Service) -> None:
    assert probe(served.client.base_url.port or 0).returncode == 0


def test_healthcheck_fails_with_the_reason_for_a_service_that_is_not_ready(start: Any, tmp_path: Any) -> None:
    service = start(tmp_path)

    done = probe(service.client.base_url.port)

    assert done.returncode == 1
    assert done.stderr.strip() == service.client.get("/v2/health/ready").text


def test_healthcheck_fails_without_a_service() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

    done = probe(port)

    assert done.returncode == 1
    assert done.stderr.startswith("The service does not answer: ")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("module", ["fastapi", "numpy", "onnxruntime", "typer"])
def test_healthcheck_imports_little(module: str) -> None:
    code = f"import sys, normfold.service.healthcheck; sys.exit({module!r} in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
