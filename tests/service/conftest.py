"""Small bundles, and a service that runs them in this process behind a real HTTP server."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import pytest
import uvicorn
from fastapi import FastAPI
from onnx import TensorProto, helper, numpy_helper

from normfold.contract.manifest import FoldSummary, Manifest, TensorSpec, sha256_of
from normfold.contract.monitor import MONITOR_CARD_NAME, MONITOR_NAME, Monitor, MonitoredLayer
from normfold.contract.preprocess import ImagePreprocessing, RowPreprocessing
from normfold.contract.record import to_json
from normfold.contract.source_card import SourceCard
from normfold.service.app import create_app
from normfold.service.http.server import make_server
from normfold.service.inference.fast_path import FastPath
from normfold.service.logs import REQUEST_ID, JsonFormatter
from normfold.service.settings import Settings

ONNX_TYPES = {
    "BOOL": TensorProto.BOOL,
    **{name: getattr(TensorProto, name) for name in ("INT8", "INT16", "INT32", "INT64")},
    **{name: getattr(TensorProto, name) for name in ("UINT8", "UINT16", "UINT32", "UINT64")},
    "FP16": TensorProto.FLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
}
LABELS = ("zero", "one", "two")
DIGITS = ImagePreprocessing(channels=1, height=4, width=4, value_max=16, mean=(0.25,), std=(0.5,))
ROWS = RowPreprocessing(columns=("age", "income"), mean=(40.0, 1e9), std=(10.0, 5.0))


@dataclass
class BundleWriter:
    """Writes bundles into a repository, right ones and wrong ones."""

    root: Path

    def write(
        self,
        name: str,
        version: int,
        nodes: list[onnx.NodeProto],
        inputs: list[TensorSpec],
        outputs: list[TensorSpec],
        initializers: dict[str, np.ndarray] | None = None,
        batchable: bool = True,
        card: SourceCard | None = None,
        **changes: Any,
    ) -> Path:
        """Write NAME/VERSION/ and return it; `changes` replace fields of the manifest."""
        folder = self.root / name / str(version)
        folder.mkdir(parents=True)
        graph = helper.make_graph(
            nodes,
            name,
            [_value(spec) for spec in inputs],
            [_value(spec) for spec in outputs],
            [numpy_helper.from_array(array, key) for key, array in (initializers or {}).items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
        onnx.save(model, folder / "model.onnx")
        manifest = Manifest(
            name=name,
            version=version,
            created="2026-01-01T00:00:00Z",
            inputs=tuple(inputs),
            outputs=tuple(outputs),
            batchable=batchable,
            opset=18,
            card=card or SourceCard(),
            fold=FoldSummary(batchnorm_before=0, batchnorm_after=0),
            verification={},
            versions={},
            files={"model.onnx": sha256_of(folder / "model.onnx")},
        )
        (folder / "manifest.json").write_text(to_json(manifest.model_copy(update=changes)))
        return folder

    def digits(self, version: int = 1, name: str = "digits", bias: float = 0.0, **changes: Any) -> Path:
        """A classifier of 4 × 4 grey pictures: the logits are the sums over three columns, and a bias."""
        weight = np.zeros((16, 3), np.float32)
        for column in range(3):
            weight[column::4, column] = 1
        return self.write(
            name,
            version,
            [
                helper.make_node("Flatten", ["input"], ["flat"]),
                helper.make_node("Gemm", ["flat", "weight", "bias"], ["logits"]),
            ],
            [TensorSpec(name="input", datatype="FP32", shape=(-1, 1, 4, 4))],
            [TensorSpec(name="logits", datatype="FP32", shape=(-1, 3))],
            {"weight": weight, "bias": np.full(3, bias, np.float32)},
            **{"card": SourceCard(preprocessing=DIGITS, labels=LABELS, logits=("logits",)), **changes},
        )

    def pixels(self, name: str = "pixels") -> Path:
        """As `digits`, but of 8-bit pixels that the network standardises itself."""
        weight = np.zeros((16, 3), np.float32)
        for column in range(3):
            weight[column::4, column] = 1 / (255 * DIGITS.std[0])
        return self.write(
            name,
            1,
            [
                helper.make_node("Cast", ["input"], ["float"], to=TensorProto.FLOAT),
                helper.make_node("Flatten", ["float"], ["flat"]),
                helper.make_node("Gemm", ["flat", "weight", "bias"], ["logits"]),
            ],
            [TensorSpec(name="input", datatype="UINT8", shape=(-1, 1, 4, 4))],
            [TensorSpec(name="logits", datatype="FP32", shape=(-1, 3))],
            {"weight": weight, "bias": np.full(3, -4 * DIGITS.mean[0] / DIGITS.std[0], np.float32)},
            card=SourceCard(preprocessing=DIGITS, labels=LABELS, logits=("logits",)),
            takes_pixels=True,
        )

    def rows(self, name: str = "rows") -> Path:
        """A network that gives back its two columns, standardised."""
        return self.write(
            name,
            1,
            [helper.make_node("Identity", ["input"], ["output"])],
            [TensorSpec(name="input", datatype="FP32", shape=(-1, 2))],
            [TensorSpec(name="output", datatype="FP32", shape=(-1, 2))],
            card=SourceCard(preprocessing=ROWS),
        )

    def pair(self, name: str = "pair") -> Path:
        """Two inputs of different types, two outputs: their product as FP64, and the flag turned round."""
        return self.write(
            name,
            1,
            [
                helper.make_node("Cast", ["count"], ["wide"], to=TensorProto.DOUBLE),
                helper.make_node("ReduceSum", ["wide", "axes"], ["product"], keepdims=0),
                helper.make_node("Not", ["flag"], ["opposite"]),
            ],
            [
                TensorSpec(name="count", datatype="INT64", shape=(-1, 2)),
                TensorSpec(name="flag", datatype="BOOL", shape=(-1,)),
            ],
            [
                TensorSpec(name="product", datatype="FP64", shape=(-1,)),
                TensorSpec(name="opposite", datatype="BOOL", shape=(-1,)),
            ],
            {"axes": np.array([1], np.int64)},
        )

    def identity(self, datatype: str, name: str | None = None, shape: tuple[int, ...] = (-1, -1)) -> Path:
        """A network that gives back what it takes."""
        return self.write(
            name or f"identity-{datatype.lower()}",
            1,
            [helper.make_node("Identity", ["input"], ["output"])],
            [TensorSpec(name="input", datatype=datatype, shape=shape)],
            [TensorSpec(name="output", datatype=datatype, shape=shape)],
        )

    def one_by_one(self, name: str = "one-by-one") -> Path:
        """A network whose rows are not independent: each is divided by the sum over all rows."""
        return self.write(
            name,
            1,
            [
                helper.make_node("ReduceSum", ["input"], ["total"], keepdims=1),
                helper.make_node("Div", ["input", "total"], ["output"]),
            ],
            [TensorSpec(name="input", datatype="FP32", shape=(-1, 1))],
            [TensorSpec(name="output", datatype="FP32", shape=(-1, 1))],
            batchable=False,
        )

    def watch(self, folder: Path) -> None:
        """Add to a bundle of `digits` what watches its 16 pixels, normally of mean 0 and variance 1."""
        nodes = [
            helper.make_node("Flatten", ["input"], ["means"]),
            helper.make_node("Mul", ["means", "means"], ["squares"]),
        ]
        graph = helper.make_graph(
            nodes,
            "monitor",
            [_value(TensorSpec(name="input", datatype="FP32", shape=(-1, 1, 4, 4)))],
            [_value(TensorSpec(name=name, datatype="FP32", shape=(-1, 16))) for name in ("means", "squares")],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
        onnx.save(model, folder / MONITOR_NAME)
        layer = MonitoredLayer(node="pixels", means="means", squares="squares", variances=(1.0,) * 16, threshold=0.5)
        (folder / MONITOR_CARD_NAME).write_text(to_json(Monitor(window_rows=4, layers=(layer,))))
        files = json.loads((folder / "manifest.json").read_text())["files"]
        added = {name: sha256_of(folder / name) for name in (MONITOR_NAME, MONITOR_CARD_NAME)}
        self.change_manifest(folder, files=files | added)

    def change_manifest(self, folder: Path, **changes: Any) -> None:
        """Overwrite fields of a written manifest, unchecked."""
        path = folder / "manifest.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _value(spec: TensorSpec) -> onnx.ValueInfoProto:
    shape = [f"free{axis}" if size == -1 else size for axis, size in enumerate(spec.shape)]
    return helper.make_tensor_value_info(spec.name, ONNX_TYPES[spec.datatype], shape)


@dataclass
class Service:
    """A running service."""

    app: FastAPI
    client: httpx.Client
    server: uvicorn.Server = field(repr=False)

    def wait_until_loaded(self) -> None:
        """Wait until every bundle is ready or unavailable."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            body = self.client.get("/v2/health/ready").json()
            if body.get("error") != "The models are being loaded.":
                return
        raise AssertionError("still loading")


@contextlib.contextmanager
def serve_app(app: FastAPI, settings: Settings) -> Iterator[Service]:
    """Run an app behind uvicorn on a free port, in a thread."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = make_server(app, settings)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with httpx.Client(base_url=url, timeout=20, trust_env=False) as client:
            try:
                yield Service(app, client, server)
            finally:
                client.close()  # uvicorn waits for open connections
                server.should_exit = True
                thread.join(timeout=20)
        assert not thread.is_alive()


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith("NORMFOLD_"):
            monkeypatch.delenv(name)


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


class Lines(logging.Handler):
    """What comes to a logger, each line as it is written and in the context that it is written in."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []
        self.formatted: list[dict[str, Any]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)
        self.formatted.append(json.loads(JsonFormatter().format(record)))


@pytest.fixture
def lines() -> Iterator[Lines]:
    """All that the process logs."""
    handler = Lines()
    logging.getLogger().addHandler(handler)
    yield handler
    logging.getLogger().removeHandler(handler)


@pytest.fixture
def bundles(tmp_path: Path) -> BundleWriter:
    """A writer into an empty repository."""
    root = tmp_path / "repository"
    root.mkdir()
    return BundleWriter(root)


@pytest.fixture
def start() -> Iterator[Callable[..., Service]]:
    """Return a function that serves a repository until the test ends, as a rule with every bundle loaded."""
    with contextlib.ExitStack() as stack:

        def start_service(root: Path, wait: bool = True, **settings: Any) -> Service:
            chosen = Settings(repository=root, **{"provider": "cpu", **settings})
            service = stack.enter_context(serve_app(create_app(chosen), chosen))
            if wait:
                service.wait_until_loaded()
            return service

        yield start_service


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The URLs that took the short way."""
    urls: list[bytes] = []
    take = FastPath.take

    def note(way: FastPath, url: bytes, *arguments: Any) -> None:
        urls.append(url)
        take(way, url, *arguments)

    monkeypatch.setattr(FastPath, "take", note)
    return urls


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One service with every kind of model, shared by the tests of a module."""
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
