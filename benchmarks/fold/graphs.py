"""The ten graphs of tests/graphs, given seeded weights, as files that the benchmarks read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "tests" / "graphs"
NAMES = tuple(sorted(path.name.removesuffix(".onnx.gz") for path in FOLDER.glob("*.onnx.gz")))


def write_graph(name: str, target: Path, seed: int = 0) -> Path:
    """Write one of the graphs, unoptimised, for a batch of two, with float32 weights drawn from `seed`.

    The graph is written by a process of its own, whose memory does not count; it takes a few seconds.
    """
    command = [sys.executable, "-m", "tests.support.published_graphs", name, str(target.resolve()), str(seed)]
    subprocess.run(command, check=True, cwd=Path(__file__).parents[2])
    return target
