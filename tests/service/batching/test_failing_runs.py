"""Runs that fail, and wall clocks that jump: no other request is affected."""

from __future__ import annotations

import ast
import itertools
import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from normfold.contract.manifest import TensorSpec
from normfold.service.errors import RunError
from normfold.service.observability import access_line as access
from normfold.service.observability import telemetry
from normfold.service.runtime.session import Session
from tests.support.bundles import BundleWriter
from tests.support.raw_http import INFER_HEAD, connect, read_responses
from tests.support.service import HeldRuns, StartService, post_picture
from tests.support.waiting import wait_for


def allocator(bundles: BundleWriter) -> None:
    """Write a network that makes as many zeros as its input says; of rows that run together the largest counts."""
    bundles.write(
        "allocator",
        1,
        [
            helper.make_node("ReduceMax", ["count"], ["most"], keepdims=0),
            helper.make_node("Unsqueeze", ["most", "axis"], ["shape"]),
            helper.make_node("ConstantOfShape", ["shape"], ["zeros"]),
            helper.make_node("ReduceSum", ["zeros"], ["sum"], keepdims=0),
            helper.make_node("Cast", ["count"], ["float"], to=TensorProto.FLOAT),
            helper.make_node("Add", ["float", "sum"], ["output"]),
        ],
        [TensorSpec(name="count", datatype="INT64", shape=(-1, 1))],
        [TensorSpec(name="output", datatype="FP32", shape=(-1, 1))],
        {"axis": np.array([0], np.int64)},
    )


def counting(count: int) -> dict[str, Any]:
    return {"inputs": [{"name": "count", "datatype": "INT64", "shape": [1, 1], "data": [count]}]}


TOO_MUCH = 2**46
"""Floats: more than there are addresses."""


def test_failed_allocation_fails_one_request(
    bundles: BundleWriter, start: StartService, caplog: pytest.LogCaptureFixture
) -> None:
    allocator(bundles)
    service = start(bundles.root)
    for _ in range(3):
        answer = service.client.post("/v2/models/allocator/infer", json=counting(TOO_MUCH))
        assert answer.status_code == 422
        assert answer.json()["error"].startswith("The network fails on these tensors")
        answer = service.client.post("/v2/models/allocator/infer", json=counting(5))
        assert answer.json()["outputs"][0]["data"] == [5.0]
    assert any("allocate" in message for message in caplog.messages)


def test_invalid_request_of_a_batch_fails_alone_over_http(
    bundles: BundleWriter, start: StartService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten requests wait while one runs, then run together: one that asks for too much fails all, then only itself."""
    allocator(bundles)
    slow = HeldRuns(monkeypatch)
    service = start(bundles.root, max_batch_size=16)
    slow.holds.set()
    connections = [connect(service.client) for _ in range(11)]
    for number, connection in enumerate(connections):
        body = json.dumps(counting(TOO_MUCH if number == 5 else number)).encode()
        head = INFER_HEAD.replace(b"digits", b"allocator") % (len(body), b"Connection: close\r\n")
        connection.sendall(head + body)
        if number == 0:
            assert slow.running.wait(timeout=20)
    wait_for(lambda: 'normfold_queue_rows{model="allocator",version="1"} 10.0' in service.client.get("/metrics").text)
    slow.holds.clear()
    slow.go_on.set()
    found = [read_responses(connection)[0] for connection in connections]
    for connection in connections:
        connection.close()
    assert [status for status, _ in found] == [200] * 5 + [422] + [200] * 5
    numbers = [json.loads(body)["outputs"][0]["data"] for status, body in found if status == 200]
    assert numbers == [[float(number)] for number in range(11) if number != 5]


@pytest.mark.parametrize("error", [MemoryError("planted"), RuntimeError("planted"), OSError("planted")])
@pytest.mark.parametrize("inline", [True, False])
def test_any_exception_of_a_run_is_500_and_the_next_request_succeeds(
    bundles: BundleWriter,
    start: StartService,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    inline: bool,
) -> None:
    """Also what `Session.run` does not turn into an error of ours."""
    right, fails = Session.run, threading.Event()

    def run(*arguments: Any) -> Any:
        if fails.is_set():
            raise error
        return right(*arguments)

    monkeypatch.setattr(Session, "run", run)
    monkeypatch.setattr("normfold.service.repository.warmup.MAX_INLINE_RUN_S", 10.0 if inline else 0.0)
    bundles.digits()
    service = start(bundles.root)
    fails.set()
    answer = post_picture(service)
    fails.clear()
    assert answer.status_code == 500
    assert "planted" not in answer.text
    assert any(record.exc_info and record.exc_info[1] is error for record in caplog.records)
    assert post_picture(service).status_code == 200


def pairs_of(bundles: BundleWriter) -> None:
    """Write a network of free sizes that takes a row of any even length: it sums pairs of its values."""
    bundles.write(
        "pairs",
        1,
        [
            helper.make_node("Reshape", ["input", "shape"], ["pairs"]),
            helper.make_node("ReduceSum", ["pairs", "axis"], ["output"], keepdims=0),
        ],
        [TensorSpec(name="input", datatype="FP32", shape=(1, -1))],
        [TensorSpec(name="output", datatype="FP32", shape=(-1, -1))],
        {"shape": np.array([1, -1, 2], np.int64), "axis": np.array([2], np.int64)},
        batchable=False,
    )


@pytest.mark.parametrize("asked_before", [False, True])
def test_failing_network_of_free_sizes_is_the_clients_fault_or_the_services(
    bundles: BundleWriter, start: StartService, monkeypatch: pytest.MonkeyPatch, asked_before: bool
) -> None:
    right, is_broken = Session.run, threading.Event()

    def run(*arguments: Any) -> Any:
        if is_broken.is_set():
            raise RunError("planted")
        return right(*arguments)

    monkeypatch.setattr(Session, "run", run)
    pairs_of(bundles)
    service = start(bundles.root)

    def ask(length: int) -> int:
        tensor = {"name": "input", "datatype": "FP32", "shape": [1, length], "data": [1.0] * length}
        return service.client.post("/v2/models/pairs/infer", json={"inputs": [tensor]}).status_code

    if asked_before:
        assert ask(4) == 200
    assert [ask(5), ask(6), ask(7)] == [422, 200, 422]
    is_broken.set()
    assert [ask(6), ask(7)] == [500, 500]
    is_broken.clear()
    assert [ask(6), ask(7)] == [200, 422]


def test_network_of_free_sizes_that_never_runs_is_the_services_fault(
    bundles: BundleWriter, start: StartService, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*_: Any) -> Any:
        raise RunError("planted")

    monkeypatch.setattr(Session, "run", run)
    pairs_of(bundles)
    service = start(bundles.root)
    tensor = {"name": "input", "datatype": "FP32", "shape": [1, 4], "data": [1.0] * 4}
    assert service.client.post("/v2/models/pairs/infer", json={"inputs": [tensor]}).status_code == 500


@pytest.mark.slow
def test_jumping_wall_clock_has_no_effect(
    bundles: BundleWriter, start: StartService, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An hour forward, two back, and so on, at every look at it."""
    jumps = (1.8e9 + 3600 * (number if number % 2 else -number) for number in itertools.count())
    for module in (access, telemetry):
        monkeypatch.setattr(module, "time", lambda: next(jumps))
    bundles.digits()
    service = start(bundles.root, access_log=tmp_path / "access.log", timeout_s=20)
    for _ in range(20):
        assert post_picture(service).status_code == 200
    statistics = service.client.get("/v2/models/digits/stats").json()["model_stats"][0]["inference_stats"]
    assert 0 < statistics["success"]["ns"] < 20e9
    wait_for(lambda: (tmp_path / "access.log").read_bytes().count(b"\n") >= 20)
    lines = [json.loads(line) for line in (tmp_path / "access.log").read_bytes().splitlines()]
    assert all(0 < line["ms"] < 20_000 for line in lines)


@pytest.mark.slow
def test_wall_clock_is_read_in_listed_modules_only() -> None:
    """Only what people and machines read has the time of day, the days on which keys and certificates end, and the
    order in which several processes kept inputs, each of which keeps its own order whatever the clock says.
    """
    using = set()
    for path in sorted((Path(access.__file__).parents[1]).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module in ("time", "datetime"):
                names = {alias.name for alias in node.names}
                assert names <= {
                    "time",
                    "thread_time",
                    "process_time",
                    "time_ns",
                    "perf_counter",
                    "monotonic",
                    "clock_gettime",
                    "clock_gettime_ns",
                    "CLOCK_MONOTONIC",
                    "pthread_getcpuclockid",
                    "sleep",
                    "datetime",
                    "timedelta",
                    "UTC",
                }
                using |= {path.name for name in names & {"time", "time_ns", "datetime"}}
            assert not (isinstance(node, ast.Import) and {alias.name for alias in node.names} & {"time", "datetime"})
    assert using == {
        "access_line.py",
        "telemetry.py",
        "logs.py",
        "otel.py",
        "key_file.py",
        "key_store.py",
        "key_admin.py",
        "sample_buffer.py",
        "observers.py",
        "record.py",
        "tls.py",
    }
