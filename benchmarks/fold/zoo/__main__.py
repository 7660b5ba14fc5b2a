"""Networks of other packages, folded and beside what other tools leave: `make bench-fold-zoo`.

Each network of `networks.txt` is built with seeded random weights and exported without the exporter's optimiser. Of
each: BatchNormalization left by Normfold, by the exporter's optimiser, and behind it by ONNX Runtime's level EXTENDED,
onnxslim and onnxsim; whether a second fold changes anything; error over noise; processor time of a run under ONNX
Runtime with all of its optimisations, folded over source, one thread, in interleaved rounds (see `benchmarks.latency`).
A network over the limit is measured with five times the rounds, and fails if its interval lies above. `--rounds 0`
leaves times out.

A run goes on where the last one was ended: what it found is in the file of results, a line a network. Leaves with 1 if
a network fails to fold, leaves more than another tool, is not verified, or is slower than the limit.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from benchmarks.fold.zoo.networks import Network, read_networks
from benchmarks.fold.zoo.record import Record, append_record, read_records
from benchmarks.fold.zoo.report import print_report
from benchmarks.machine import machine_line

PACKAGES = (
    *("normfold", "torch", "timm", "torchvision", "transformers", "pytorchcv", "keras"),
    *("onnx", "onnxruntime", "onnxscript", "onnxsim", "onnxslim"),
)
STEP_S = 1800
"""Seconds after which a step is ended."""


def main() -> None:
    """Measure the networks asked for that are not in the results, and print the report of all of them."""
    arguments = parse_arguments()
    networks = [network for network in read_networks() if is_asked_for(network, arguments.networks)][: arguments.limit]
    records = read_records(arguments.results)
    for number, network in enumerate(networks, start=1):
        if is_complete(records.get(str(network)), arguments.rounds):
            continue
        print(f"{number} of {len(networks)}: {network}", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory() as folder:
            record = measure_network(network, Path(folder), arguments, records.get(str(network)))
        append_record(arguments.results, record)
        print(f"  {outcome(record)}", file=sys.stderr, flush=True)
    records = read_records(arguments.results)
    found = [records[str(network)] for network in networks if str(network) in records]
    console = Console(width=160)
    console.print(machine_line(PACKAGES), soft_wrap=True, markup=False)
    print_report(console, found)
    if any(record.faults() for record in found):
        raise SystemExit(1)


def parse_arguments() -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(prog="make bench-fold-zoo")
    parser.add_argument("--networks", nargs="+", metavar="NAME", help="packages, names, or package/name (default: all)")
    parser.add_argument("--limit", type=int, metavar="N", help="the first N of them")
    parser.add_argument("--rounds", type=int, default=40, help="interleaved rounds a network (default: %(default)s)")
    parser.add_argument("--core", type=int, default=0, help="the core to measure on (default: %(default)s)")
    parser.add_argument("--results", type=Path, default=Path("build/zoo.jsonl"), help="default: %(default)s")
    parser.add_argument("--sources", type=Path, help="keep the exported files in this folder for the next run (15 GB)")
    return parser.parse_args()


def is_asked_for(network: Network, names: Sequence[str] | None) -> bool:
    """Return whether a network is one of those named."""
    return names is None or not {network.package, network.name, network.label}.isdisjoint(names)


def is_complete(record: Record | None, rounds: int) -> bool:
    """Return whether nothing of a network is missing; what failed is tried again."""
    return record is not None and not record.failed and (record.ratio is not None or not rounds)


def measure_network(network: Network, folder: Path, arguments: argparse.Namespace, earlier: Record | None) -> Record:
    """Export a network, and give it to Normfold and to the other tools; what an earlier run found of these is kept."""
    source = folder / "source.onnx"
    if arguments.sources is not None:
        arguments.sources.mkdir(parents=True, exist_ok=True)
        source = arguments.sources / f"{network.package}-{network.name}.onnx"
    rounds, core = str(arguments.rounds), str(arguments.core)
    try:
        if not source.exists():
            run_step("source", "source", *str(network).split(), str(source))
        line = run_step("fold", "fold", str(network), str(source), str(folder / "folded.onnx"), rounds, core)
    except StepError as error:
        return Record(str(network), failed=str(error))
    record = Record(**json.loads(line.splitlines()[-1]))
    if earlier is not None and not earlier.failed:
        record.left = earlier.left | record.left
        return record
    try:
        lines = run_step("tools", "tools", str(source), str(folder)).splitlines()
    except StepError as error:
        lines = error.printed.splitlines()
    record.left |= {tool: int(count) for tool, count in (line.split() for line in lines)}
    return record


class StepError(Exception):
    """A step failed; the message names it, and holds the last line of its standard error."""

    def __init__(self, message: str, printed: str = "") -> None:
        super().__init__(message)
        self.printed = printed


def run_step(name: str, module: str, *arguments: str) -> str:
    """Run a module of this folder in a process of its own; return its standard output.

    Raises:
        StepError: it failed, crashed, or took too long.
    """
    command = [sys.executable, "-m", f"benchmarks.fold.zoo.{module}", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=STEP_S, check=False, errors="replace"
        )
    except subprocess.TimeoutExpired:
        raise StepError(f"{name}: ended after {STEP_S} s") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [""]
        raise StepError(f"{name}: exit code {done.returncode}: {lines[-1]}", done.stdout)
    return done.stdout.strip()


def outcome(record: Record) -> str:
    """Return one line of progress."""
    if record.failed:
        return record.failed
    left = ", ".join(f"{tool} {count}" for tool, count in record.left.items())
    return f"{record.batchnorm} BatchNormalization; left: {left}. {'; '.join(record.faults())}"


if __name__ == "__main__":
    main()
