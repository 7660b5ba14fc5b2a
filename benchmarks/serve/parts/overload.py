"""More than can be served: ResNet-18 offered three times its peak; 512 connections to the small network."""

from __future__ import annotations

import statistics
from collections import Counter
from pathlib import Path

import numpy as np

from benchmarks.progress import tell
from benchmarks.serve.load import closed_loop, open_loop, rss_mb
from benchmarks.serve.networks import infer_request
from benchmarks.serve.servers import PORTS, normfold

QUEUE_ROWS = 8
CROWD = 512

LIMITS = {
    "overload: served, of the peak": (0.9, "at least"),
    "overload: other answers than 200 and 503 with Retry-After": (0.0, "at most"),
    "overload: p99 of the served, of (queue + 1) service times": (1.5, "at most"),
    "overload: memory at the end, of that after a tenth": (1.05, "at most"),
    "overload: p50 afterwards, of that before": (1.2, "at most"),
    "crowd: other answers than 200 and 503 with Retry-After": (0.0, "at most"),
    "crowd: memory at the end, of that after a tenth": (1.05, "at most"),
}


def measure_overload(folder: Path, repository: Path, rounds: int, seconds: float) -> dict[str, float]:
    """Offer three times what the service can do."""
    del rounds
    row = np.random.default_rng(1).standard_normal((1, 3, 224, 224)).astype(np.float32)
    request, port = infer_request(repository, "resnet18", row, binary=True), PORTS["normfold"]
    with normfold(repository, folder, NORMFOLD_QUEUE_CAPACITY=str(QUEUE_ROWS), NORMFOLD_MAX_BATCH_SIZE="1") as process:
        tell("overload: peak")
        before = closed_loop(port, request, 1, 2 * seconds, folder)
        peak = closed_loop(port, request, 4, 2 * seconds, folder).rate
        tell(f"overload: {3 * peak:.0f} requests a second")
        open_loop(port, request, 3 * peak, seconds, connections=96)
        early = rss_mb(process)
        seen = open_loop(port, request, 3 * peak, 6 * seconds, connections=96)
        late = rss_mb(process)
        after = closed_loop(port, request, 1, 2 * seconds, folder)
    served = sorted(seen.served())
    statuses = Counter(status for status, _, _ in seen.answers)
    refusals = [ms for status, ms, says in seen.answers if status == 503 and says]
    p99 = served[int(0.99 * len(served))]
    print(f"\noverload: peak {peak:.1f} rows/s, offered {3 * peak:.1f}/s, served {len(served) / seen.seconds:.1f}/s")
    print(f"answers {dict(statuses)}; refused in {statistics.median(refusals):.1f} ms; served p99 {p99:.0f} ms")
    print(
        f"memory {early:.0f} MiB, then {late:.0f} MiB; p50 {before.p50_ms:.1f} ms before, {after.p50_ms:.1f} ms after"
    )
    return {
        "overload: served, of the peak": len(served) / seen.seconds / peak,
        "overload: other answers than 200 and 503 with Retry-After": len(seen.answers) - len(served) - len(refusals),
        "overload: p99 of the served, of (queue + 1) service times": p99 / ((QUEUE_ROWS + 1) * 1000 / peak),
        "overload: memory at the end, of that after a tenth": late / early,
        "overload: p50 afterwards, of that before": after.p50_ms / before.p50_ms,
    }


def measure_crowd(folder: Path, repository: Path, rounds: int, seconds: float) -> dict[str, float]:
    """Let 512 connections ask the small network, with the queue that a user gets who sets nothing."""
    del rounds
    row = np.random.default_rng(1).standard_normal((1, 64)).astype(np.float32)
    request, port = infer_request(repository, "small", row, binary=False), PORTS["normfold"]
    with normfold(repository, folder) as process:
        tell(f"crowd: {CROWD} connections")
        few = closed_loop(port, request, 64, seconds, folder)
        closed_loop(port, request, CROWD, seconds, folder)
        early = rss_mb(process)
        many = closed_loop(port, request, CROWD, 9 * seconds, folder)
        late = rss_mb(process)
        seen = open_loop(port, request, 1.5 * few.rate, 2 * seconds, connections=CROWD)
    wrong = [status for status, _, says in seen.answers if status != 200 and not (status == 503 and says)]
    print(f"\ncrowd: {CROWD} connections, {many.rate:,.0f} requests/s (64: {few.rate:,.0f}), {many.errors} refused;")
    print(f"open loop: answers {dict(Counter(status for status, _, _ in seen.answers))}; {early:.0f}, {late:.0f} MiB")
    return {
        "crowd: other answers than 200 and 503 with Retry-After": float(len(wrong)),
        "crowd: memory at the end, of that after a tenth": late / early,
    }
