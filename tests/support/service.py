"""A service that runs in this process behind a real HTTP server: start it, ask it, hold its runs, read its log."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import queue
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from normfold.service.app import create_app
from normfold.service.http.server import make_server
from normfold.service.logs import FACTS, REQUEST_ID, JsonFormatter
from normfold.service.repository import warmup
from normfold.service.runtime.session import Session
from normfold.service.settings import Settings
from tests.support.infer_bodies import PICTURE
from tests.support.raw_http import open_client
from tests.support.waiting import wait_until_loaded


@dataclass
class Service:
    """A running service."""

    app: FastAPI
    client: httpx.Client
    server: uvicorn.Server = field(repr=False)

    def wait_until_loaded(self) -> None:
        """Wait until every bundle is ready or unavailable."""
        wait_until_loaded(self.client)


class ShortSleeps:
    """asyncio with sleeps of a tenth of the time.

    uvicorn's server looks every 0.1 s whether it should end, and once more whether its connections are closed: of the
    tests that start one, most took longer to end than to run.
    """

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)

    async def sleep(self, delay: float) -> None:
        """Sleep a tenth of `delay` seconds."""
        await asyncio.sleep(delay / 10)


@contextlib.contextmanager
def serve_app(app: FastAPI, settings: Settings) -> Iterator[Service]:
    """Run an app behind uvicorn on a free port, in a thread."""
    with socket.create_server(("127.0.0.1", 0)) as listener, mock.patch("uvicorn.server.asyncio", ShortSleeps()):
        server = make_server(app, settings)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with open_client(url) as client:
            try:
                yield Service(app, client, server)
            finally:
                client.close()  # uvicorn waits for open connections
                server.should_exit = True
                thread.join(timeout=20)
        assert not thread.is_alive()


StartService = Callable[..., Service]
"""Type of the fixture `start`: a function of a repository's folder, `wait` and settings."""


def post_picture(service: Service, **fields: Any) -> httpx.Response:
    """Send an infer request of one picture to the model `digits`; `fields` are added to its JSON."""
    return service.client.post("/v2/models/digits/infer", json=PICTURE | fields)


def answering_version(service: Service) -> int | None:
    """Return the version of `digits` that answers, from its bias (see `publish_version`), or None without an answer."""
    answer = post_picture(service)
    return int(answer.json()["outputs"][0]["data"][0]) if answer.status_code == 200 else None


def repository_index(service: Service, ready: bool = False) -> dict[str, tuple[str, str]]:
    """Return the repository's index: (state, reason) of each NAME/VERSION; with `ready`, of those that are ready."""
    body = {"ready": True} if ready else None
    found = service.client.post("/v2/repository/index", json=body).json()
    return {f"{one['name']}/{one['version']}": (one["state"], one["reason"]) for one in found}


def queued_rows(service: Service) -> float:
    """Return the rows that wait in the queue of `digits`, from the metrics."""
    lines = service.client.get("/metrics").text.splitlines()
    return next(float(line.split()[-1]) for line in lines if line.startswith('normfold_queue_rows{model="digits"'))


class HeldRuns:
    """Holds every run of a session from the moment `holds` is set until `go_on` is set.

    Attributes:
        holds: set by the test: runs are held from now on.
        running: set as soon as a run is held.
        go_on: set by the test: held runs go on.
        cancels: the cancel tokens of the held runs.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.holds, self.running, self.go_on = threading.Event(), threading.Event(), threading.Event()
        self.cancels: list[Any] = []
        right = Session.run

        def run(session: Session, tensors: Any, outputs: Any, cancel: Any = None) -> Any:
            if self.holds.is_set():
                self.cancels.append(cancel)
                self.running.set()
                assert self.go_on.wait(timeout=20)
            return right(session, tensors, outputs, cancel)

        monkeypatch.setattr(Session, "run", run)
        monkeypatch.setattr(warmup, "MAX_INLINE_RUN_S", 0.0)


class AccessLog(logging.Handler):
    """The lines of the access log; a request's is written after its answer is out, so it must be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: queue.Queue[tuple[str | None, logging.LogRecord]] = queue.Queue()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line with the id of the request that caused it."""
        self._lines.put((REQUEST_ID.get(), record))

    def wait_for(self, request_id: str) -> logging.LogRecord:
        """Return the line of a request."""
        while True:
            found, record = self._lines.get(timeout=20)
            if found == request_id:
                return record

    def facts_of(self, request_id: str) -> dict[str, Any]:
        """Return the fields of a request's line."""
        facts: dict[str, Any] = getattr(self.wait_for(request_id), FACTS)
        return facts


class LogRecords(logging.Handler):
    """Collects log records, formatted as they arrive, in the context of the code that logs."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []
        self.formatted: list[dict[str, Any]] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Collect a record."""
        self.records.append(record)
        self.formatted.append(json.loads(JsonFormatter().format(record)))


CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
"""ONNX Runtime's names of execution providers."""


class PretendedSession:
    """A session on the CPU that reports other execution providers, options and node placements."""

    def __init__(self, real: Any, providers: list[tuple[str, Mapping[str, str]]], nodes: Mapping[str, int]) -> None:
        self._real, self._options, self._nodes = real, dict(providers), nodes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def get_providers(self) -> list[str]:
        """Name all that were asked for."""
        return list(self._options)

    def get_provider_options(self) -> dict[str, Mapping[str, str]]:
        """Return the options that were asked for, and one more that is in force."""
        return {name: {**options, "in_force": "1"} for name, options in self._options.items()}

    def get_provider_graph_assignment_info(self) -> list[Any]:
        """Return one subgraph for each provider."""
        return [
            SimpleNamespace(ep_name=name, get_nodes=lambda number=number: [None] * number)
            for name, number in self._nodes.items()
        ]


ALLOWED_ORIGIN = "https://app.example:8443"
"""The origin of pages that a KeyedService allows."""


class KeyedService:
    """A service with a key of each kind, by name."""

    def __init__(self, folder: Path, service: Service, sent: dict[str, str], ids: dict[str, str]) -> None:
        self.folder, self.service, self.sent, self.ids, self.client = folder, service, sent, ids, service.client

    def ask(self, key: str | None, method: str, path: str, **more: Any) -> httpx.Response:
        """Send a request with the key of this name."""
        headers = {"Authorization": f"Bearer {self.sent[key]}"} if key else {}
        url = httpx.URL(self.client.base_url).copy_with(raw_path=path.encode())
        return self.client.request(method, url, headers=headers | more.pop("headers", {}), **more)


def openapi_document() -> dict[str, Any]:
    """Return the OpenAPI document; it does not depend on the models."""
    app = create_app(Settings.model_construct())  # nothing of the environment
    app.state.thread_pool.close()
    return app.openapi()
