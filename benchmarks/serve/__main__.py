"""Throughput, latency and memory of Normfold's service: `make bench-serve`. Needs wrk (apt install wrk).

The server runs on one core and the load on another, with its defaults: validation, deadlines, limits, request ids,
metrics, and a JSON access log on standard error, which a process reads. Rounds are interleaved, and medians count. The
parts:

    start         time from the command to ready with one bundle of digits, and the memory then
    small         a 64-256-256-10 network: requests/s and latency, compared with an ASGI echo and a tutorial's server,
                  and with the access log in a file and turned off
    grpc          the small network and 600 kB both ways, compared with a bare grpc.aio echo and with HTTP
    resnet18      224 × 224: rows/s, binary and JSON, compared with a bare loop of session.run; int8 with float32
    overload      resnet18 with three times the requests/s of its peak, from an open loop
    connections   the small network with 512 connections
    reload        twenty new versions of resnet18, under load over HTTP and gRPC on it and on the small network
    drift         cost of drift monitoring, on and off by turns
    soak          a million requests over HTTP and gRPC with every response checked, some cancelled, and a hundred
                  loads and unloads

The exit code is 1 if a limit is exceeded; the limits of a part are in its file.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

from benchmarks.machine import machine_line
from benchmarks.progress import show_progress
from benchmarks.serve.load import SERVER_CORE
from benchmarks.serve.networks import INT8, export
from benchmarks.serve.parts import drift_cost, grpc, overload, reload, resnet18, small, soak, start

PACKAGES = (
    "fastapi",
    "grpcio",
    "protobuf",
    "uvicorn",
    "uvloop",
    "httptools",
    "orjson",
    "pysimdjson",
    "onnxruntime",
    "numpy",
)

PARTS = {
    "start": (start.measure_start, ("digits",)),
    "small": (small.measure_small, ("small",)),
    "grpc": (grpc.measure_grpc, ("small", "copy")),
    "resnet18": (resnet18.measure_resnet18, ("resnet18", f"resnet18{INT8}")),
    "overload": (overload.measure_overload, ("resnet18",)),
    "connections": (overload.measure_many_connections, ("small",)),
    "reload": (reload.measure_reload, ("small", "resnet18")),
    "drift": (drift_cost.measure_drift_cost, ("digits",)),
    "soak": (soak.measure_soak, ("small", "resnet18")),
}
"""Function and networks of each part."""

LIMITS = {
    name: limit
    for module in (start, small, grpc, resnet18, overload, reload, drift_cost, soak)
    for name, limit in module.LIMITS.items()
}


def main() -> None:
    """Measure, print, and exit with 1 if a limit is exceeded."""
    parser = argparse.ArgumentParser(prog="make bench-serve")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement (default: %(default)s)")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help=", ".join(PARTS))
    arguments = parser.parse_args()
    if shutil.which("wrk") is None:
        raise SystemExit("wrk is not installed; on Debian: apt install wrk")
    print(machine_line(PACKAGES))
    print(f"{arguments.rounds} rounds of {arguments.seconds:g} s; server on core {SERVER_CORE}, load on the other")
    figures: dict[str, float] = {}
    for part in arguments.parts:
        measure, networks = PARTS[part]
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            for network in networks:
                show_progress(f"making {network}")
                export(folder, folder / "repository", network)
            figures |= measure(folder, folder / "repository", arguments.rounds, arguments.seconds)
    print()
    failed = [line for name, value in figures.items() for line in verdict(name, value)]
    raise SystemExit(1 if failed else 0)


def verdict(name: str, value: float) -> list[str]:
    """Print a value beside its limit; return its name if it fails."""
    limit, kind = LIMITS[name]
    passes = value >= limit if kind == "at least" else value <= limit
    print(f"{'ok  ' if passes else 'FAIL'} {name}: {value:.3f} ({kind} {limit:g})")
    return [] if passes else [name]


if __name__ == "__main__":
    main()
