"""ResNet-18 at 224 × 224: rows per second, binary and JSON, compared with a bare loop of session.run; and in int8."""

from __future__ import annotations

import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np

from benchmarks.progress import show_progress
from benchmarks.serve.load import SERVER_CORE, closed_loop
from benchmarks.serve.networks import INT8, infer_request
from benchmarks.serve.servers import PORTS, normfold

LIMITS = {
    "resnet18, binary: rows a second, of the bare loop's": (0.97, "at least"),
    "resnet18, JSON: rows a second, of the bare loop's": (0.80, "at least"),
    "resnet18 in int8, binary: rows a second, of float32's": (1.6, "at least"),
}

_SETTLED_S = 1.0


def measure_resnet18(folder: Path, repository: Path, rounds: int, seconds: float) -> dict[str, float]:
    """Compare the service with a bare loop of session.run, on the same core, and int8 with float32.

    Each round starts a new service and a new loop, since the memory layout of a process changes either by a per cent.
    The service is measured for longer, since requests that are unfinished at the end do not count.
    """
    row = np.random.default_rng(1).standard_normal((1, 3, 224, 224)).astype(np.float32)
    requests = {
        "binary": infer_request(repository, "resnet18", row, binary=True),
        "int8, binary": infer_request(repository, f"resnet18{INT8}", row, binary=True),
        "JSON": infer_request(repository, "resnet18", row, binary=False),
    }
    rates: dict[str, list[float]] = {name: [] for name in ("bare loop", *requests)}
    for number in range(rounds):
        show_progress(f"resnet18: round {number + 1}")
        rates["bare loop"].append(bare_loop(repository / "resnet18" / "1" / "model.onnx", seconds))
        with normfold(repository):
            for name, request in requests.items():
                closed_loop(PORTS["normfold"], request, 4, _SETTLED_S, folder)
                measured = closed_loop(PORTS["normfold"], request, 4, 4 * seconds, folder)
                if measured.errors:
                    raise SystemExit(f"resnet18, {name}: {measured.errors} requests failed")
                rates[name].append(measured.rate)
    print(f"\n{'resnet18':20} {'rows/s':>11}")
    medians = {name: statistics.median(values) for name, values in rates.items()}
    for name, rate in medians.items():
        print(f"{name:20} {rate:11.2f}")
    return {
        "resnet18, binary: rows a second, of the bare loop's": medians["binary"] / medians["bare loop"],
        "resnet18, JSON: rows a second, of the bare loop's": medians["JSON"] / medians["bare loop"],
        "resnet18 in int8, binary: rows a second, of float32's": medians["int8, binary"] / medians["binary"],
    }


def bare_loop(model: Path, seconds: float) -> float:
    """Return the rows per second of session.run on the server's core, in a process of its own."""
    command = ["taskset", "-c", str(SERVER_CORE), sys.executable, "-m", "benchmarks.serve.loop", str(model)]
    return float(subprocess.run([*command, str(seconds)], check=True, capture_output=True, text=True).stdout)
