"""Ten published graphs, folded and beside what the exporter's tools make of them: `make bench-fold`.

For each graph and each pipeline (see `benchmarks.fold.pipelines`): what is left of BatchNormalization, all nodes, Conv
nodes; seconds to read, change and write the file; error over the network's own noise against the unoptimised file, with
a ! where `export.verify.verify` rejects it; milliseconds a run for the batch of two under ONNX Runtime with all of its
optimisations, and the ratio to the exporter's optimiser with a 95 % interval (see `benchmarks.latency`).

Times are processor time on one core: what passes on a machine that does nothing else. Models run in one thread.
Changing the file is timed three times, imports and a first, uncounted run apart; the median counts. Leaves with 1 if
normfold's ratio or time is over its limit, or its output is not verified.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
from rich.console import Console
from rich.table import Table

from benchmarks.fold.graphs import NAMES, write_graph
from benchmarks.fold.pipelines import EXPORTER, NORMFOLD, PIPELINES, Pipeline, quietly
from benchmarks.latency import Ratio, Times, measure, ratio
from benchmarks.machine import machine_line, pinned
from normfold.export.verify.verify import verify

RATIO_LIMIT = 1.03
SECONDS_LIMIT = 2.0
TIMINGS = 3
PACKAGES = ("onnx", "onnx-ir", "onnxruntime", "onnxscript", "onnxslim", "onnxsim", "numpy")


@dataclass(frozen=True)
class Result:
    """One pipeline on one graph."""

    graph: str
    pipeline: Pipeline
    operators: Counter[str]
    seconds: float
    error_over_noise: float
    verified: bool
    milliseconds: float
    ratio: Ratio

    def faults(self) -> list[str]:
        """Return what is over a limit; only normfold has any."""
        if self.pipeline is not NORMFOLD:
            return []
        found = {
            f"{self.ratio.value:.3f} times the exporter's time, allowed {RATIO_LIMIT}": self.ratio.value > RATIO_LIMIT,
            f"folded in {self.seconds:.2f} s, allowed {SECONDS_LIMIT} s": self.seconds > SECONDS_LIMIT,
            f"error {self.error_over_noise:.1f} times the noise: not verified": not self.verified,
        }
        return [f"{self.graph}: {fault}" for fault, is_fault in found.items() if is_fault]


def main() -> None:
    """Measure the graphs asked for, print the table; leave with 1 if a limit is passed."""
    arguments = parse_arguments()
    pipelines = [pipeline for pipeline in PIPELINES if pipeline.installed]
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as folder:
        warm_up(pipelines, Path(folder))
        for name in arguments.graphs:
            results += measure_graph(name, pipelines, Path(folder), arguments.pairs, arguments.core)
    console = Console(width=132)
    console.print(machine_line(PACKAGES), soft_wrap=True)
    console.print(f"batch 2, float32, one thread on core {arguments.core}, {arguments.pairs} interleaved rounds")
    for pipeline in PIPELINES:
        console.print(f"{pipeline.name:12} {pipeline.had}{'' if pipeline.installed else '; not installed, left out'}")
    console.print(table_of(results))
    if faults := [fault for result in results for fault in result.faults()]:
        console.print("\n".join(faults), soft_wrap=True)
        raise SystemExit(1)


def parse_arguments() -> argparse.Namespace:
    """Return --graphs, --pairs and --core."""
    parser = argparse.ArgumentParser(prog="make bench-fold")
    parser.add_argument("--graphs", nargs="+", choices=NAMES, default=NAMES, metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--pairs", type=int, default=40, help="interleaved rounds a graph (default: %(default)s)")
    parser.add_argument("--core", type=int, default=0, help="the core to measure on (default: %(default)s)")
    return parser.parse_args()


def warm_up(pipelines: Sequence[Pipeline], folder: Path) -> None:
    """Run every pipeline once, so that imports and first calls are in no measurement."""
    source = write_graph("mobilenetv3_small_050", folder / "warm_up.onnx")
    for pipeline in pipelines:
        quietly(pipeline.run, source, folder / "warmed_up.onnx")


def measure_graph(name: str, pipelines: Sequence[Pipeline], folder: Path, rounds: int, core: int) -> list[Result]:
    """Run every pipeline on one graph, then prove and time what they wrote."""
    show_progress(f"{name}: source")
    source = write_graph(name, folder / "source.onnx")
    files = {pipeline.name: folder / f"{index}.onnx" for index, pipeline in enumerate(pipelines)}
    seconds, verifications = {}, {}
    for pipeline in pipelines:
        show_progress(f"{name}: {pipeline.name}")
        target = files[pipeline.name]
        with pinned(core):
            seconds[pipeline.name] = statistics.median(time_of(pipeline, source, target) for _ in range(TIMINGS))
        verifications[pipeline.name] = verify(source, target)
    with pinned(core):
        times = measure(files, rounds, lambda done: show_progress(f"{name}: round {done} of {rounds}"))
    results = []
    for pipeline in pipelines:
        verification, milliseconds = verifications[pipeline.name], times[pipeline.name] * 1000
        results.append(
            Result(
                graph=name,
                pipeline=pipeline,
                operators=Counter(node.op_type for node in onnx.load(files[pipeline.name]).graph.node),
                seconds=seconds[pipeline.name],
                error_over_noise=max(output.ratio for output in verification.outputs.values()),
                verified=verification.passes,
                milliseconds=statistics.median(milliseconds),
                ratio=ratio(times[pipeline.name], times[EXPORTER.name]),
            )
        )
        show_progress(
            f"{name}: {pipeline.name}: {interval(milliseconds)}, run / exporter's {results[-1].ratio}", ends=True
        )
    return results


def time_of(pipeline: Pipeline, source: Path, target: Path) -> float:
    """Return the processor seconds of one run of a pipeline, reading and writing included."""
    started = time.process_time()
    quietly(pipeline.run, source, target)
    return time.process_time() - started


def interval(times: Times) -> str:
    """Return median and quartiles, in the unit given."""
    quartiles = statistics.quantiles(times, n=4) if len(times) > 1 else [times[0]] * 3
    return f"{quartiles[1]:.2f} ms [{quartiles[0]:.2f}, {quartiles[2]:.2f}]"


def table_of(results: Sequence[Result]) -> Table:
    """Return the table, graph by graph."""
    table = Table("graph", "pipeline")
    for heading in ("BN", "nodes", "Conv", "optimise s", "error / noise", "run ms", "run / exporter's [95 %]"):
        table.add_column(heading, justify="right")
    graph = ""
    for result in results:
        if graph and graph != result.graph:
            table.add_section()
        operators = result.operators
        table.add_row(
            result.graph if graph != result.graph else "",
            result.pipeline.name,
            *map(str, (operators["BatchNormalization"], operators.total(), operators["Conv"])),
            f"{result.seconds:.2f}",
            f"{result.error_over_noise:.2f}{'' if result.verified else ' !'}",
            f"{result.milliseconds:.2f}",
            str(result.ratio) if result.pipeline is not EXPORTER else "1",
        )
        graph = result.graph
    return table


def show_progress(step: str, ends: bool = False) -> None:
    """Show a step on standard error, on one line that the next step replaces unless `ends`."""
    print(f"\r{step:70}", end="\n" if ends else "", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
