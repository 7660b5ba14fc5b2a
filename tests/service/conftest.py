"""Fixtures of a service that runs in this process: its log, its fast path, and one that a module's tests share."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import onnxruntime
import pytest

from normfold.service.app import create_app
from normfold.service.inference.fast_path import FastPath
from normfold.service.settings import Settings
from tests.support.bundles import ONNX_TYPES, BundleWriter
from tests.support.service import CPU, CUDA, TENSORRT, AccessLog, LogRecords, PretendedSession, Service, serve_app


@pytest.fixture
def access_log() -> Iterator[AccessLog]:
    """The access log, listened to while the test runs."""
    handler, logger = AccessLog(), logging.getLogger("normfold.access")
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(level)


@pytest.fixture
def lines() -> Iterator[LogRecords]:
    """Every line that the process logs."""
    handler = LogRecords()
    logging.getLogger().addHandler(handler)
    yield handler
    logging.getLogger().removeHandler(handler)


@pytest.fixture
def fast_path_urls(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The URLs that the fast path has taken."""
    urls: list[bytes] = []
    take = FastPath.start

    def note(path: FastPath, url: bytes, *arguments: Any) -> None:
        urls.append(url)
        take(path, url, *arguments)

    monkeypatch.setattr(FastPath, "start", note)
    return urls


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with every kind of model, shared by the tests of a module."""
    writer = BundleWriter(tmp_path_factory.mktemp("repository"))
    writer.digits(1)
    writer.digits(2, bias=1.0)
    writer.rows()
    writer.pair()
    writer.one_by_one()
    for datatype in ONNX_TYPES:
        writer.identity(datatype)
    settings = Settings(repository=writer.root, provider="cpu", max_body_bytes=100_000)
    with serve_app(create_app(settings), settings) as service:
        service.wait_until_loaded()
        yield service


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Any]]:
    """Return a function that makes ONNX Runtime list CUDA and TensorRT, and act as given when a session is opened.

    `got`: whether the session has the requested provider; `nodes`: their placement; `error`: raised for all but the
    CPU provider; `printed`: by the search for libraries; `max_sessions`: that fit into memory; `max_on_provider`: of
    those, on the requested provider; `on_cpu`: whether the CPU can run the network. It returns the requests.
    """
    right = onnxruntime.InferenceSession

    def install(
        got: bool = True,
        nodes: Mapping[str, int] | None = None,
        error: str | None = None,
        printed: str = "",
        max_sessions: int = 100,
        max_on_provider: int = 100,
        on_cpu: bool = True,
    ) -> list[Any]:
        asked: list[Any] = []

        def open_pretended(path: Path, options: Any, providers: Any, enable_fallback: int) -> Any:
            assert not enable_fallback  # or ONNX Runtime's wrapper would print and go on with the CPU
            asked.append(providers)
            real = right(path, options, providers=[CPU], enable_fallback=0)
            if providers[0][0] == CPU and not on_cpu:
                raise RuntimeError("NOT_IMPLEMENTED: no kernel on the CPU")
            if providers[0][0] == CPU or not got or len(asked) > max_on_provider:
                return real
            if error is not None:
                raise RuntimeError(error)
            if len(asked) > max_sessions:
                raise RuntimeError("CUDA out of memory")
            return PretendedSession(real, providers, {CUDA: 2} if nodes is None else nodes)

        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [TENSORRT, CUDA, CPU])
        monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: sys.stdout.write(printed), raising=False)
        monkeypatch.setattr(onnxruntime, "InferenceSession", open_pretended)
        return asked

    return install
