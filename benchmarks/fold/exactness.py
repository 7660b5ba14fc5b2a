"""Distance of folded and unfolded networks from float64: `make bench-fold-exactness`.

For each of the ten graphs and each seed (weights and input): the truth is a float64 run of the source (see
`benchmarks.fold.float64_reference`). Both the source and the folded file run in float32 under ONNX Runtime with graph
optimisation off; a distance is the root of the mean square of the differences over all elements of the output, for a
batch of two. The ratio is the folded model's distance over the unfolded one's. Leaves with 1 if the median ratio is
above 1.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx

from benchmarks.fold.float64_reference import Array, check_against_onnx, run_in_float64
from benchmarks.fold.graphs import NAMES, write_graph
from benchmarks.machine import machine_line
from normfold.export.files.fold_file import fold_file
from normfold.export.verify.inputs import random_inputs
from normfold.export.verify.runner import Runner

MEDIAN_LIMIT = 1.0


def main() -> None:
    """Print the ratios, graph by graph, and their median; leave with 1 if it is over its limit."""
    parser = argparse.ArgumentParser(prog="make bench-fold-exactness")
    parser.add_argument("--graphs", nargs="+", choices=NAMES, default=NAMES, metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--seeds", type=int, default=5, help="seeds 0 to N - 1 (default: %(default)s)")
    arguments = parser.parse_args()
    check_against_onnx()
    print(machine_line(("onnx", "onnxruntime", "torch", "numpy")))
    print("RMS distance to a float64 run of the source: the folded model's over the unfolded one's")
    print(f"{'graph':24}" + "".join(f"{f'seed {seed}':>9}" for seed in range(arguments.seeds)) + f"{'median':>9}")
    ratios: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.graphs:
            own = [ratio(name, seed, Path(folder)) for seed in range(arguments.seeds)]
            print(f"{name:24}" + "".join(f"{value:9.3f}" for value in (*own, statistics.median(own))), flush=True)
            ratios += own
    median = statistics.median(ratios)
    print(f"median {median:.3f}, limit {MEDIAN_LIMIT}; from {min(ratios):.3f} to {max(ratios):.3f}")
    if median > MEDIAN_LIMIT:
        raise SystemExit(1)


def ratio(name: str, seed: int, folder: Path) -> float:
    """Return the folded model's distance over the unfolded one's, of the output for which it is largest."""
    source = write_graph(name, folder / "source.onnx", seed)
    folded = folder / "folded.onnx"
    fold_file(source, folded, verified=False)
    unfolded_run, folded_run = Runner(source), Runner(folded)
    inputs = dict(random_inputs(unfolded_run.inputs, free_size=32, seed=seed))
    truth = run_in_float64(onnx.load(source), inputs)
    before, after = (distances(runner.run(inputs), truth) for runner in (unfolded_run, folded_run))
    print(f"{name}, seed {seed}: unfolded {before}, folded {after}", file=sys.stderr)
    return max(after[output] / before[output] for output in truth)


def distances(outputs: dict[str, Array], truth: dict[str, Array]) -> dict[str, float]:
    """Return the RMS distance of each output from the truth."""
    return {name: float(np.sqrt(np.mean((outputs[name] - wanted) ** 2))) for name, wanted in truth.items()}


if __name__ == "__main__":
    main()
