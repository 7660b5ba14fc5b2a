"""Overload: ResNet-18 with three times its peak rate, and 512 connections to the small network."""

from __future__ import annotations

import statistics
from collections import Counter
from pathlib import Path

import numpy as np

from benchmarks.progress import show_progress
from benchmarks.serve.load import closed_loop, open_loop, rss_mb
from benchmarks.serve.networks import infer_request
from benchmarks.serve.servers import PORTS, normfold

QUEUE_ROWS = 8
CONNECTIONS = 512

LIMITS = {
    "overload: served, of the peak": (0.9, "at least"),
    "overload: other answers than 200 and 503 with Retry-After": (0.0, "at most"),
    "overload: p99 of the served, of (queue + 1) service times": (1.5, "at most"),
    "overload: memory at the end, of that after a tenth": (1.05, "at most"),
    "overload: p50 afterwards, of that before": (1.2, "at most"),
    "many connections: other answers than 200 and 503 with Retry-After": (0.0, "at most"),
    "many connections: memory at the end, of that after a tenth": (1.05, "at most"),
}


def measure_overload(folder: Path, repository: Path, rounds: int, seconds: float) -> dict[str, float]:
    """Send three times the requests per second of the service's peak."""
    del rounds
    row = np.random.default_rng(1).standard_normal((1, 3, 224, 224)).astype(np.float32)
    request, port = infer_request(repository, "resnet18", row, binary=True), PORTS["normfold"]
    with normfold(repository, NORMFOLD_QUEUE_CAPACITY=str(QUEUE_ROWS), NORMFOLD_MAX_BATCH_SIZE="1") as process:
        show_progress("overload: peak")
        before = closed_loop(port, request, 1, 2 * seconds, folder)
        peak = closed_loop(port, request, 4, 2 * seconds, folder).rate
        show_progress(f"overload: {3 * peak:.0f} requests a second")
        open_loop(port, request, 3 * peak, seconds, connections=96)
        early = rss_mb(process)
        seen = open_loop(port, request, 3 * peak, 6 * seconds, connections=96)
        late = rss_mb(process)
        after = closed_loop(port, request, 1, 2 * seconds, folder)
    served = sorted(seen.served())
    statuses = Counter(status for status, _, _ in seen.responses)
    rejections = [ms for status, ms, retry_after in seen.responses if status == 503 and retry_after]
    p99 = served[int(0.99 * len(served))]
    print(f"\noverload: peak {peak:.1f} rows/s, offered {3 * peak:.1f}/s, served {len(served) / seen.seconds:.1f}/s")
    print(f"statuses {dict(statuses)}; rejected in {statistics.median(rejections):.1f} ms; served p99 {p99:.0f} ms")
    print(
        f"memory {early:.0f} MiB, then {late:.0f} MiB; p50 {before.p50_ms:.1f} ms before, {after.p50_ms:.1f} ms after"
    )
    return {
        "overload: served, of the peak": len(served) / seen.seconds / peak,
        "overload: other answers than 200 and 503 with Retry-After": len(seen.responses)
        - len(served)
        - len(rejections),
        "overload: p99 of the served, of (queue + 1) service times": p99 / ((QUEUE_ROWS + 1) * 1000 / peak),
        "overload: memory at the end, of that after a tenth": late / early,
        "overload: p50 afterwards, of that before": after.p50_ms / before.p50_ms,
    }


def measure_many_connections(folder: Path, repository: Path, rounds: int, seconds: float) -> dict[str, float]:
    """Send requests to the small network over 512 connections, with the default queue capacity."""
    del rounds
    row = np.random.default_rng(1).standard_normal((1, 64)).astype(np.float32)
    request, port = infer_request(repository, "small", row, binary=False), PORTS["normfold"]
    with normfold(repository) as process:
        show_progress(f"many connections: {CONNECTIONS} connections")
        few = closed_loop(port, request, 64, seconds, folder)
        closed_loop(port, request, CONNECTIONS, seconds, folder)
        early = rss_mb(process)
        many = closed_loop(port, request, CONNECTIONS, 9 * seconds, folder)
        late = rss_mb(process)
        seen = open_loop(port, request, 1.5 * few.rate, 2 * seconds, connections=CONNECTIONS)
    wrong = [
        status for status, _, retry_after in seen.responses if status != 200 and not (status == 503 and retry_after)
    ]
    print(
        f"\nmany connections: {many.rate:,.0f} requests/s with {CONNECTIONS} connections ({few.rate:,.0f} with 64), "
        f"{many.errors} rejected;"
    )
    print(
        f"open loop: statuses {dict(Counter(status for status, _, _ in seen.responses))}; {early:.0f}, {late:.0f} MiB"
    )
    return {
        "many connections: other answers than 200 and 503 with Retry-After": float(len(wrong)),
        "many connections: memory at the end, of that after a tenth": late / early,
    }
