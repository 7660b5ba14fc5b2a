"""Time until a service with one bundle of digits is ready, and its memory then."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

from benchmarks.progress import show_progress
from benchmarks.serve.load import rss_mb
from benchmarks.serve.servers import normfold

LIMITS = {
    "start: seconds until ready, with one digits bundle": (1.5, "at most"),
    "start: memory then, MiB": (120 * 1e6 / 2**20, "at most"),
}


def measure_start(folder: Path, repository: Path, rounds: int, seconds: float) -> dict[str, float]:
    """Start the service once per round."""
    del folder, seconds
    times, memory = [], []
    for number in range(rounds):
        show_progress(f"start: round {number + 1}")
        began = time.perf_counter()
        with normfold(repository) as process:
            times.append(time.perf_counter() - began)
            memory.append(rss_mb(process))
    print(f"\nstart: ready after {statistics.median(times):.2f} s, {statistics.median(memory):.0f} MiB then")
    return {
        "start: seconds until ready, with one digits bundle": statistics.median(times),
        "start: memory then, MiB": statistics.median(memory),
    }
