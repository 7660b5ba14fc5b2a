"""A 64-256-256-10 network: requests per second and latency, compared with an ASGI echo and a tutorial's server."""

from __future__ import annotations

import json
import statistics
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from benchmarks.progress import show_progress
from benchmarks.serve.load import ClosedLoopResult, Request, closed_loop, one_response
from benchmarks.serve.networks import infer_request
from benchmarks.serve.servers import PORTS, normfold, uvicorn_app

LIMITS = {
    "small, 64 connections: requests a second, of the echo's": (0.50, "at least"),
    "small, 64 connections: requests a second, of the tutorial's": (4.0, "at least"),
    "small, 16 connections: p99 over p50, highest of all runs": (2.5, "at most"),
    "small, 64 connections: p99 over p50, highest of all runs": (2.5, "at most"),
    "small, 1 connection: p50, of the echo's": (3.5, "at most"),
    "small, 64 connections: binary requests a second, of JSON's": (1.0, "at least"),
}

OTHER_LOGS = {"log in a file": "NORMFOLD_ACCESS_LOG", "no access log": "NORMFOLD_LOG_LEVEL"}
"""Services beside the one with the defaults, which logs to a pipe, and the setting of each."""

_PAIRS = 3
"""Pairs of JSON and binary measurements per round; a single pair could swap their order, since they are close."""


def measure_small(folder: Path, repository: Path, rounds: int, seconds: float) -> dict[str, float]:
    """Compare the service with the echo and the tutorial's server."""
    row = np.random.default_rng(1).standard_normal((1, 64)).astype(np.float32)
    ours, binary = (infer_request(repository, "small", row, binary) for binary in (False, True))
    theirs = Request("/predict", json.dumps({"data": row.tolist()}).encode(), {"Content-Type": "application/json"})
    model = repository / "small" / "1" / "model.onnx"
    json64, binary64 = ("normfold", "normfold", ours, 64), ("normfold, binary", "normfold", binary, 64)
    runs = [
        *[("echo", "echo", Request("/", ours.body), count) for count in (1, 16, 64)],
        *[("normfold", "normfold", ours, count) for count in (1, 16)],
        *[json64, binary64] * _PAIRS,
        *[(name, name, ours, 64) for name in OTHER_LOGS],
        ("tutorial", "tutorial", theirs, 64),
    ]
    found: dict[tuple[str, int], list[ClosedLoopResult]] = {}
    with ExitStack() as stack:
        stack.enter_context(normfold(repository))
        for name, variable in OTHER_LOGS.items():
            setting = {variable: str(folder / "access.log") if variable == "NORMFOLD_ACCESS_LOG" else "warning"}
            stack.enter_context(normfold(repository, name, **setting))
        response_bytes = str(len(one_response(PORTS["normfold"], ours)))
        stack.enter_context(uvicorn_app("echo", factory=False, RESPONSE_BYTES=response_bytes))
        stack.enter_context(uvicorn_app("tutorial", factory=True, MODEL=str(model)))
        for number in range(rounds):
            for name, target, request, count in runs:
                show_progress(f"small: round {number + 1}, {name}, {count} connections")
                measured = closed_loop(PORTS[target], request, count, seconds, folder)
                found.setdefault((name, count), []).append(measured)
    print(f"\n{'small':20} {'connections':>11} {'requests/s':>11} {'p50 ms':>8} {'p99 ms':>8} {'errors':>7}")
    medians = {key: median(measured) for key, measured in found.items()}
    for (name, count), one in medians.items():
        print(f"{name:20} {count:11} {one.rate:11,.0f} {one.p50_ms:8.3f} {one.p99_ms:8.3f} {one.errors:7}")
    ours64 = medians["normfold", 64]
    return {
        "small, 64 connections: requests a second, of the echo's": ours64.rate / medians["echo", 64].rate,
        "small, 64 connections: requests a second, of the tutorial's": ours64.rate / medians["tutorial", 64].rate,
        **{
            f"small, {count} connections: p99 over p50, highest of all runs": max(
                one.p99_ms / one.p50_ms for one in found["normfold", count]
            )
            for count in (16, 64)
        },
        "small, 1 connection: p50, of the echo's": medians["normfold", 1].p50_ms / medians["echo", 1].p50_ms,
        "small, 64 connections: binary requests a second, of JSON's": medians["normfold, binary", 64].rate
        / ours64.rate,
    }


def median(measured: list[ClosedLoopResult]) -> ClosedLoopResult:
    """Return the median of each figure."""
    rate, p50, p99 = (
        statistics.median(getattr(one, name) for one in measured) for name in ("rate", "p50_ms", "p99_ms")
    )
    return ClosedLoopResult(rate, p50, p99, errors=sum(one.errors for one in measured))
