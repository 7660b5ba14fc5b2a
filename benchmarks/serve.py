"""Normfold's service beside what it stands on and what it replaces: `make bench-serve`. Needs wrk (apt install wrk).

Server on one core, load on the other, everything on that a user would have on: validation, deadlines, limits, request
ids, metrics, an access log of JSON to a file. Rounds are interleaved; medians count. Three parts:

    small      a 64-256-256-10 network: requests a second and latency, beside the bare ASGI echo and a tutorial's server
    resnet18   224 × 224: rows a second, binary and JSON, beside a bare loop of session.run
    overload   resnet18, offered three times its peak by an open loop

Leaves with 1 if a limit of `LIMITS` is passed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks.machine import machine_line
from benchmarks.serve_load import SERVER_CORE, Closed, Request, closed_loop, open_loop, rss_mb, server
from contract.manifest import read_manifest
from export.bundle import export_bundle

PORTS = {"normfold": 9180, "echo": 9181, "tutorial": 9182}
PACKAGES = ("fastapi", "uvicorn", "uvloop", "httptools", "orjson", "onnxruntime", "numpy")
QUEUE_ROWS = 8

LIMITS = {
    "small, 64 connections: requests a second, of the echo's": (0.50, "at least"),
    "small, 64 connections: requests a second, of the tutorial's": (4.0, "at least"),
    "small, 16 connections: p99 over p50": (2.5, "at most"),
    "small, 64 connections: p99 over p50": (2.5, "at most"),
    "small, 1 connection: p50, of the echo's": (3.5, "at most"),
    "small, 64 connections: binary requests a second, of JSON's": (1.0, "at least"),
    "resnet18, binary: rows a second, of the bare loop's": (0.97, "at least"),
    "resnet18, JSON: rows a second, of the bare loop's": (0.80, "at least"),
    "overload: served, of the peak": (0.9, "at least"),
    "overload: other answers than 200 and 503 with Retry-After": (0.0, "at most"),
    "overload: p99 of the served, of (queue + 1) service times": (1.5, "at most"),
    "overload: memory at the end, of that after a tenth": (1.05, "at most"),
    "overload: p50 afterwards, of that before": (1.2, "at most"),
}


def main() -> None:
    """Measure, print, and leave with 1 if a limit is passed."""
    parser = argparse.ArgumentParser(prog="make bench-serve")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement (default: %(default)s)")
    parser.add_argument("--parts", nargs="+", default=["small", "resnet18", "overload"])
    arguments = parser.parse_args()
    if shutil.which("wrk") is None:
        raise SystemExit("wrk is not installed; on Debian: apt install wrk")
    print(machine_line(PACKAGES))
    print(f"{arguments.rounds} rounds of {arguments.seconds:g} s; server on core {SERVER_CORE}, load on the other")
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        repository = folder / "repository"
        for part in arguments.parts:
            network = "small" if part == "small" else "resnet18"
            if not (repository / network).exists():
                tell(f"making {network}")
                export_bundle(MAKERS[network](folder), repository, network)
            figures |= PARTS[part](folder, repository, arguments.rounds, arguments.seconds)
    print()
    failed = [line for name, value in figures.items() for line in verdict(name, value)]
    raise SystemExit(1 if failed else 0)


def verdict(name: str, value: float) -> list[str]:
    """Print a figure beside its limit; return it if it fails."""
    limit, kind = LIMITS[name]
    passes = value >= limit if kind == "at least" else value <= limit
    print(f"{'ok  ' if passes else 'FAIL'} {name}: {value:.3f} ({kind} {limit:g})")
    return [] if passes else [name]


def small_network(folder: Path) -> Path:
    """Write 64-256-256-10 with seeded weights."""
    rng = np.random.default_rng(0)
    nodes, weights, value = [], [], "input"
    sizes = (64, 256, 256, 10)
    for index, (inputs, outputs) in enumerate(pairwise(sizes)):
        weight = (rng.standard_normal((inputs, outputs)) / np.sqrt(inputs)).astype(np.float32)
        weights += [
            numpy_helper.from_array(weight, f"w{index}"),
            numpy_helper.from_array(np.zeros(outputs, np.float32), f"b{index}"),
        ]
        last = index == len(sizes) - 2
        nodes.append(helper.make_node("Gemm", [value, f"w{index}", f"b{index}"], ["output" if last else f"g{index}"]))
        if not last:
            value = f"r{index}"
            nodes.append(helper.make_node("Relu", [f"g{index}"], [value]))
    ports = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, ["rows", s]) for n, s in (("input", 64), ("output", 10))
    ]
    graph = helper.make_graph(nodes, "small", ports[:1], ports[1:], weights)
    path = folder / "small.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)
    return path


def resnet18(folder: Path) -> Path:
    """Write our ResNet-18 for 224 × 224 with seeded weights."""
    import torch

    from models.registry import Architecture, build
    from models.to_onnx import InputSpec, to_onnx

    torch.manual_seed(0)
    options: dict[str, Any] = {"classes": 1000}
    network = build(Architecture(name="resnet18", options=options, input_shape=(3, 224, 224)))
    path = folder / "resnet18.onnx"
    to_onnx(network.eval(), path, {"input": InputSpec((3, 224, 224))})
    return path


def infer_request(repository: Path, network: str, array: np.ndarray, binary: bool) -> Request:
    """Return an infer request as a NumPy client writes it."""
    entry: dict[str, Any] = {"name": "input", "shape": list(array.shape), "datatype": "FP32"}
    path = f"/v2/models/{network}/infer"
    output = read_manifest(repository / network / "1" / "manifest.json").outputs[0].name
    if not binary:
        entry["data"] = array.ravel().tolist()
        return Request(path, json.dumps({"inputs": [entry]}).encode())
    entry["parameters"] = {"binary_data_size": array.nbytes}
    outputs = [{"name": output, "parameters": {"binary_data": True}}]
    head = json.dumps({"inputs": [entry], "outputs": outputs}).encode()
    return Request(path, head + array.tobytes(), {"Inference-Header-Content-Length": str(len(head))})


def normfold(repository: Path, folder: Path, **settings: str) -> Any:
    """Return Normfold's service, with everything on."""
    environment = {"NORMFOLD_ACCESS_LOG": str(folder / "access.log"), "NORMFOLD_LOG_LEVEL": "warning"} | settings
    port = PORTS["normfold"]
    command = ["-m", "cli", "serve", "--repository", str(repository), "--port", str(port), "--provider", "cpu"]
    return server(command, port, "/v2/health/ready", environment)


def uvicorn_app(name: str, factory: bool, **environment: str) -> Any:
    """Return one of the other servers."""
    command = ["-m", "uvicorn", f"benchmarks.serve_targets:{name}", "--port", str(PORTS[name])]
    command += ["--no-access-log", "--log-level", "warning", *(["--factory"] if factory else [])]
    return server(command, PORTS[name], "/docs" if factory else "/", environment)


def measure_small(folder: Path, repository: Path, rounds: int, seconds: float) -> dict[str, float]:
    """Compare the service with the echo and the tutorial's server."""
    row = np.random.default_rng(1).standard_normal((1, 64)).astype(np.float32)
    ours, binary = (infer_request(repository, "small", row, binary) for binary in (False, True))
    theirs = Request("/predict", json.dumps({"data": row.tolist()}).encode(), {"Content-Type": "application/json"})
    model = repository / "small" / "1" / "model.onnx"
    runs = {
        "echo": ("echo", Request("/", ours.body), (1, 16, 64)),
        "normfold": ("normfold", ours, (1, 16, 64)),
        "normfold, binary": ("normfold", binary, (64,)),
        "tutorial": ("tutorial", theirs, (64,)),
    }
    found: dict[tuple[str, int], list[Closed]] = {}
    with ExitStack() as stack:
        stack.enter_context(normfold(repository, folder))
        stack.enter_context(uvicorn_app("echo", factory=False))
        stack.enter_context(uvicorn_app("tutorial", factory=True, MODEL=str(model)))
        for number in range(rounds):
            for name, (target, request, connections) in runs.items():
                for count in connections:
                    tell(f"small: round {number + 1}, {name}, {count} connections")
                    measured = closed_loop(PORTS[target], request, count, seconds, folder)
                    found.setdefault((name, count), []).append(measured)
    print(f"\n{'small':20} {'connections':>11} {'requests/s':>11} {'p50 ms':>8} {'p99 ms':>8} {'errors':>7}")
    middle = {key: median(measured) for key, measured in found.items()}
    for (name, count), one in middle.items():
        print(f"{name:20} {count:11} {one.rate:11,.0f} {one.p50_ms:8.3f} {one.p99_ms:8.3f} {one.errors:7}")
    ours64 = middle["normfold", 64]
    return {
        "small, 64 connections: requests a second, of the echo's": ours64.rate / middle["echo", 64].rate,
        "small, 64 connections: requests a second, of the tutorial's": ours64.rate / middle["tutorial", 64].rate,
        "small, 16 connections: p99 over p50": middle["normfold", 16].p99_ms / middle["normfold", 16].p50_ms,
        "small, 64 connections: p99 over p50": ours64.p99_ms / ours64.p50_ms,
        "small, 1 connection: p50, of the echo's": middle["normfold", 1].p50_ms / middle["echo", 1].p50_ms,
        "small, 64 connections: binary requests a second, of JSON's": middle["normfold, binary", 64].rate / ours64.rate,
    }


def median(measured: list[Closed]) -> Closed:
    """Return the median of each figure."""
    rate, p50, p99 = (
        statistics.median(getattr(one, name) for one in measured) for name in ("rate", "p50_ms", "p99_ms")
    )
    return Closed(rate, p50, p99, errors=sum(one.errors for one in measured))


def measure_resnet18(folder: Path, repository: Path, rounds: int, seconds: float) -> dict[str, float]:
    """Compare the service with a bare loop of session.run, on the same core."""
    row = np.random.default_rng(1).standard_normal((1, 3, 224, 224)).astype(np.float32)
    requests = {binary: infer_request(repository, "resnet18", row, binary) for binary in (True, False)}
    rates: dict[str, list[float]] = {"bare loop": [], "binary": [], "JSON": []}
    with normfold(repository, folder):
        for number in range(rounds):
            tell(f"resnet18: round {number + 1}")
            rates["bare loop"].append(bare_loop(repository / "resnet18" / "1" / "model.onnx", seconds))
            for name, binary in (("binary", True), ("JSON", False)):
                measured = closed_loop(PORTS["normfold"], requests[binary], 4, 2 * seconds, folder)
                if measured.errors:
                    raise SystemExit(f"resnet18, {name}: {measured.errors} requests failed")
                rates[name].append(measured.rate)
    print(f"\n{'resnet18':20} {'rows/s':>11}")
    middle = {name: statistics.median(values) for name, values in rates.items()}
    for name, rate in middle.items():
        print(f"{name:20} {rate:11.2f}")
    return {
        "resnet18, binary: rows a second, of the bare loop's": middle["binary"] / middle["bare loop"],
        "resnet18, JSON: rows a second, of the bare loop's": middle["JSON"] / middle["bare loop"],
    }


def bare_loop(model: Path, seconds: float) -> float:
    """Return the rows a second of session.run on the server's core, in a process of its own."""
    command = ["taskset", "-c", str(SERVER_CORE), sys.executable, "-m", "benchmarks.serve_loop", str(model)]
    return float(subprocess.run([*command, str(seconds)], check=True, capture_output=True, text=True).stdout)


def measure_overload(folder: Path, repository: Path, rounds: int, seconds: float) -> dict[str, float]:
    """Offer three times what the service can do."""
    del rounds
    row = np.random.default_rng(1).standard_normal((1, 3, 224, 224)).astype(np.float32)
    request, port = infer_request(repository, "resnet18", row, binary=True), PORTS["normfold"]
    with normfold(repository, folder, NORMFOLD_QUEUE_CAPACITY=str(QUEUE_ROWS), NORMFOLD_MAX_BATCH_SIZE="1") as process:
        tell("overload: peak")
        before = closed_loop(port, request, 1, 2 * seconds, folder)
        peak = closed_loop(port, request, 4, 2 * seconds, folder).rate
        tell(f"overload: {3 * peak:.0f} requests a second")
        open_loop(port, request, 3 * peak, seconds, connections=96)
        early = rss_mb(process)
        seen = open_loop(port, request, 3 * peak, 6 * seconds, connections=96)
        late = rss_mb(process)
        after = closed_loop(port, request, 1, 2 * seconds, folder)
    served = sorted(seen.served())
    statuses = Counter(status for status, _, _ in seen.answers)
    refusals = [ms for status, ms, says in seen.answers if status == 503 and says]
    p99 = served[int(0.99 * len(served))]
    print(f"\noverload: peak {peak:.1f} rows/s, offered {3 * peak:.1f}/s, served {len(served) / seen.seconds:.1f}/s")
    print(f"answers {dict(statuses)}; refused in {statistics.median(refusals):.1f} ms; served p99 {p99:.0f} ms")
    print(
        f"memory {early:.0f} MiB, then {late:.0f} MiB; p50 {before.p50_ms:.1f} ms before, {after.p50_ms:.1f} ms after"
    )
    return {
        "overload: served, of the peak": len(served) / seen.seconds / peak,
        "overload: other answers than 200 and 503 with Retry-After": len(seen.answers) - len(served) - len(refusals),
        "overload: p99 of the served, of (queue + 1) service times": p99 / ((QUEUE_ROWS + 1) * 1000 / peak),
        "overload: memory at the end, of that after a tenth": late / early,
        "overload: p50 afterwards, of that before": after.p50_ms / before.p50_ms,
    }


MAKERS = {"small": small_network, "resnet18": resnet18}
PARTS = {"small": measure_small, "resnet18": measure_resnet18, "overload": measure_overload}


def tell(what: str) -> None:
    """Say on standard error what is being done."""
    if os.isatty(sys.stderr.fileno()):
        print(f"\r{what:78}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
