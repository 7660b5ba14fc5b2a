"""gRPC beside HTTP, each compared with a bare echo of the same messages, at 64 connections and with raw tensors.

The small network's requests show what a call costs, 600 kB both ways what its bytes cost. Processor time of the
server's process per request counts, and a rate is the reciprocal of it: what the server's core could answer.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from benchmarks.progress import show_progress
from benchmarks.serve.grpc_load import grpc_loop
from benchmarks.serve.load import Request, closed_loop, one_response, server
from benchmarks.serve.networks import infer_request
from benchmarks.serve.servers import PORTS, normfold, uvicorn_app
from normfold.service.grpc.protocol.inference_pb2 import ModelInferRequest, ModelInferResponse

LIMITS = {
    "grpc, 64 connections: requests a second of a core, of the echo's": (0.45, "at least"),
    "grpc, 64 connections: processor time over the echo's, of HTTP's": (1.5, "at most"),
    "grpc, 600 kB both ways: processor time, of HTTP's": (2.0, "at most"),
}

LARGE_CONNECTIONS = 4

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def measure_grpc(folder: Path, repository: Path, rounds: int, seconds: float) -> dict[str, float]:
    """Compare gRPC with its echo and with HTTP."""
    row = np.random.default_rng(1).standard_normal((1, 64)).astype(np.float32)
    large = np.random.default_rng(2).standard_normal((1, 150_528)).astype(np.float32)
    http, http_large = infer_request(repository, "small", row, True), infer_request(repository, "copy", large, True)
    sent, sent_large, answer = message("small", row), message("copy", large), folder / "answer"
    answer.write_bytes(response(repository))
    found: dict[str, list[tuple[float, float, float, float]]] = {}
    with ExitStack() as stack:
        ours = stack.enter_context(normfold(repository, NORMFOLD_GRPC_PORT=str(PORTS["grpc"])))
        response_bytes = str(len(one_response(PORTS["normfold"], http)))
        echo = stack.enter_context(uvicorn_app("echo", factory=False, RESPONSE_BYTES=response_bytes))
        echo_command = ["-m", "benchmarks.serve.grpc_echo", str(PORTS["grpc echo"]), str(answer)]
        bare = stack.enter_context(server(echo_command, PORTS["grpc echo"], None))
        runs = [
            ("HTTP echo", echo, http_run(PORTS["echo"], Request("/", http.body), 64, seconds, folder)),
            ("HTTP", ours, http_run(PORTS["normfold"], http, 64, seconds, folder)),
            ("gRPC echo", bare, grpc_run(PORTS["grpc echo"], sent, 64, seconds)),
            ("gRPC", ours, grpc_run(PORTS["grpc"], sent, 64, seconds)),
            ("HTTP, 600 kB", ours, http_run(PORTS["normfold"], http_large, LARGE_CONNECTIONS, seconds, folder)),
            ("gRPC, 600 kB", ours, grpc_run(PORTS["grpc"], sent_large, LARGE_CONNECTIONS, seconds)),
        ]
        for number in range(rounds):
            for name, process, run in runs:
                show_progress(f"grpc: round {number + 1}, {name}")
                before = processor_s(process)
                count, p50, p99 = run()
                found.setdefault(name, []).append(
                    (count / seconds, 1e3 * (processor_s(process) - before) / count, p50, p99)
                )
    medians = {name: [statistics.median(column) for column in zip(*rows, strict=True)] for name, rows in found.items()}
    print(f"\n{'grpc':14} {'requests/s':>11} {'processor ms':>13} {'p50 ms':>8} {'p99 ms':>8}")
    for name, (rate, cpu, p50, p99) in medians.items():
        print(f"{name:14} {rate:11,.0f} {cpu:13.3f} {p50:8.3f} {p99:8.3f}")
    cpu_ms = {name: row[1] for name, row in medians.items()}
    added, added_http = cpu_ms["gRPC"] - cpu_ms["gRPC echo"], cpu_ms["HTTP"] - cpu_ms["HTTP echo"]
    return {
        "grpc, 64 connections: requests a second of a core, of the echo's": cpu_ms["gRPC echo"] / cpu_ms["gRPC"],
        "grpc, 64 connections: processor time over the echo's, of HTTP's": added / added_http,
        "grpc, 600 kB both ways: processor time, of HTTP's": cpu_ms["gRPC, 600 kB"] / cpu_ms["HTTP, 600 kB"],
    }


Run = Callable[[], tuple[float, float, float]]
"""Runs a closed loop; returns the number of requests, and p50 and p99 in milliseconds."""


def http_run(port: int, request: Request, connections: int, seconds: float, folder: Path) -> Run:
    """Return a closed loop of wrk."""

    def run() -> tuple[float, float, float]:
        found = closed_loop(port, request, connections, seconds, folder)
        assert not found.errors
        return found.rate * seconds, found.p50_ms, found.p99_ms

    return run


def grpc_run(port: int, request: bytes, connections: int, seconds: float) -> Run:
    """Return a closed loop of h2load."""

    def run() -> tuple[float, float, float]:
        found = grpc_loop(port, request, connections, seconds)
        return float(found.calls), found.p50_ms, found.p99_ms

    return run


def message(model: str, array: np.ndarray) -> bytes:
    """Return a serialized request with raw contents."""
    request = ModelInferRequest(model_name=model, raw_input_contents=[array.tobytes()])
    request.inputs.add(name="input", datatype="FP32", shape=array.shape)
    return request.SerializeToString()


def response(repository: Path) -> bytes:
    """Return what Normfold answers the small network's request with, but for the values."""
    name = next(iter((repository / "small").iterdir())).name
    output = {"name": "output", "datatype": "FP32", "shape": [1, 10]}
    return ModelInferResponse(
        model_name="small", model_version=name, outputs=[output], raw_output_contents=[bytes(40)]
    ).SerializeToString()


def processor_s(process: int) -> float:
    """Return the processor time of a process, in user and kernel mode together."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return _TICK_S * (int(fields[11]) + int(fields[12]))
