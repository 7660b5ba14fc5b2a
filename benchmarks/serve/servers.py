"""Normfold's service and the servers that it is compared with, each on the server's core until its block is left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.serve.load import server

PORTS = {
    "normfold": 9180,
    "echo": 9181,
    "tutorial": 9182,
    "log in a file": 9183,
    "no access log": 9184,
    "grpc": 9185,
    "grpc echo": 9186,
}


def normfold(repository: Path, name: str = "normfold", module: str = "normfold", **settings: str) -> Any:
    """Run Normfold's service with its defaults; `settings` are environment variables, `name` is that of its port."""
    port = PORTS[name]
    command = ["-m", module, "serve", "--repository", str(repository), "--port", str(port), "--provider", "cpu"]
    return server(command, port, "/v2/health/ready", settings)


def uvicorn_app(name: str, factory: bool, **environment: str) -> Any:
    """Run one of the other servers."""
    command = ["-m", "uvicorn", f"benchmarks.serve.targets:{name}", "--port", str(PORTS[name])]
    command += ["--no-access-log", "--log-level", "warning", *(["--factory"] if factory else [])]
    return server(command, PORTS[name], "/docs" if factory else "/", environment)
