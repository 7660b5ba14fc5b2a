"""The bare loop that `make bench-serve` compares with: session.run on one row, repeated, on one thread."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

from benchmarks.latency import session_of


def main() -> None:
    """Print the runs per second of a model; arguments: the model file and the duration in seconds."""
    session, seconds = session_of(Path(sys.argv[1])), float(sys.argv[2])
    (value,) = session.get_inputs()
    row = np.random.default_rng(1).standard_normal([1, *value.shape[1:]]).astype(np.float32)
    for _ in range(3):
        session.run(None, {value.name: row})
    runs, started = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - started) < seconds:
        session.run(None, {value.name: row})
        runs += 1
    print(runs / elapsed)


if __name__ == "__main__":
    main()
