"""Normfold's service beside what it stands on and what it replaces: `make bench-serve`. Needs wrk (apt install wrk).

Server on one core, load on the other, everything on that a user would have on: validation, deadlines, limits, request
ids, metrics, an access log of JSON to a file. Rounds are interleaved; medians count. The parts:

    start      from the command to ready with one bundle of digits, and the memory then
    small      a 64-256-256-10 network: requests a second and latency, beside the bare ASGI echo and a tutorial's server
    resnet18   224 × 224: rows a second, binary and JSON, beside a bare loop of session.run
    overload   resnet18, offered three times its peak by an open loop
    crowd      the small network, 512 connections
    reload     twenty new versions of resnet18 under load on it and on the small network
    watch      what watching inputs costs, with and without it by turns
    soak       a million requests, every answer checked, and a hundred loads and unloads

Leaves with 1 if a limit is passed; each part's stand in its own file.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

from benchmarks.machine import machine_line
from benchmarks.progress import tell
from benchmarks.serve.load import SERVER_CORE
from benchmarks.serve.networks import export
from benchmarks.serve.parts import drift_cost, overload, reload, resnet18, small, soak, start

PACKAGES = ("fastapi", "uvicorn", "uvloop", "httptools", "orjson", "pysimdjson", "onnxruntime", "numpy")

PARTS = {
    "start": (start.measure_start, ("digits",)),
    "small": (small.measure_small, ("small",)),
    "resnet18": (resnet18.measure_resnet18, ("resnet18",)),
    "overload": (overload.measure_overload, ("resnet18",)),
    "crowd": (overload.measure_crowd, ("small",)),
    "reload": (reload.measure_reload, ("small", "resnet18")),
    "watch": (drift_cost.measure_watch, ("digits",)),
    "soak": (soak.measure_soak, ("small", "resnet18")),
}
"""What measures a part, and the networks in its repository."""

LIMITS = {
    name: limit
    for module in (start, small, resnet18, overload, reload, drift_cost, soak)
    for name, limit in module.LIMITS.items()
}


def main() -> None:
    """Measure, print, and leave with 1 if a limit is passed."""
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
                tell(f"making {network}")
                export(folder, folder / "repository", network)
            figures |= measure(folder, folder / "repository", arguments.rounds, arguments.seconds)
    print()
    failed = [line for name, value in figures.items() for line in verdict(name, value)]
    raise SystemExit(1 if failed else 0)


def verdict(name: str, value: float) -> list[str]:
    """Print a figure beside its limit; return it if it fails."""
    limit, kind = LIMITS[name]
    passes = value >= limit if kind == "at least" else value <= limit
    print(f"{'ok  ' if passes else 'FAIL'} {name}: {value:.3f} ({kind} {limit:g})")
    return [] if passes else [name]


if __name__ == "__main__":
    main()
