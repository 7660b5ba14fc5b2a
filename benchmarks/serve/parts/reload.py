"""Twenty new versions of ResNet-18, one after the other, under load on it and on another network.

The load comes over HTTP and gRPC.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from itertools import count
from pathlib import Path
from urllib.request import urlopen

import numpy as np

from benchmarks.progress import show_progress
from benchmarks.serve.client import CheckedRequest, ClientResult, make_checked_requests, send_on_connection
from benchmarks.serve.grpc_client import call_on_channel
from benchmarks.serve.load import on_load_core
from benchmarks.serve.servers import PORTS, normfold

LIMITS = {
    "reload: requests that failed": (0.0, "at most"),
    "reload: p99 of small while ResNet-18 is reloaded, of the quiet p99": (3.0, "at most"),
    "reload: p99 of resnet18 while it is reloaded, of the quiet p99": (3.0, "at most"),
}

RELOADS, QUIET_S = 20, 20.0
_POLL_S = 0.25


def measure_reload(folder: Path, repository: Path, rounds: int, seconds: float) -> dict[str, float]:
    """Publish one version after the other, and compare the latency of requests during a reload with that outside."""
    del folder, rounds, seconds
    pools = {
        name: make_checked_requests(repository / name / "1" / "model.onnx", max_rows=1)
        for name in ("small", "resnet18")
    }
    settings = {"MODEL_CONTROL": "poll", "POLL_INTERVAL_S": str(_POLL_S), "VERSION_POLICY": "latest:1"}
    settings["GRPC_PORT"] = str(PORTS["grpc"])
    with (
        normfold(repository, **{f"NORMFOLD_{name}": value for name, value in settings.items()}),
        on_load_core(),
    ):
        seen, reloads = asyncio.run(_reload(pools, repository))
    figures = {"reload: requests that failed": float(sum(one.failed for one in seen.values()))}
    print(f"\nreload: {len(reloads)} reloads of {np.median([e - b for b, e in reloads]):.2f} s (median)")
    print("p99 while no reload runs, and during one; and the number of requests during one")
    print(f"{'network':12} {'requests':>9} {'failed':>7} {'p99 ms':>8} {'during':>8} {'requests':>9}")
    for name, one in seen.items():
        overlapping = [any(b < end and start < e for b, e in reloads) for start, end in one.times]
        quiet, during = (
            np.percentile(
                [1e3 * (e - s) for (s, e), o in zip(one.times, overlapping, strict=True) if o == overlaps], 99
            )
            for overlaps in (False, True)
        )
        print(f"{name:12} {len(one.times):9,} {one.failed:7} {quiet:8.2f} {during:8.2f} {sum(overlapping):9,}")
        title = "small while ResNet-18" if name == "small" else "resnet18 while it"
        figures[f"reload: p99 of {title} is reloaded, of the quiet p99"] = float(during / quiet)
    return figures


async def _reload(
    pools: dict[str, list[CheckedRequest]], repository: Path
) -> tuple[dict[str, ClientResult], list[tuple[float, float]]]:
    """Return the client's results by network, and the begin and end of each reload."""
    seen, stop, reloads = {name: ClientResult() for name in pools}, asyncio.Event(), []
    asking = []
    for name, pool in pools.items():
        path, ids, max_requests = f"/v2/models/{name}/infer", count(), 10**9
        asking += [
            asyncio.create_task(send_on_connection(PORTS["normfold"], path, pool, seen[name], ids, stop, max_requests)),
            asyncio.create_task(call_on_channel(PORTS["grpc"], name, pool, seen[name], ids, stop, max_requests)),
        ]
    await asyncio.sleep(QUIET_S)
    for number in range(2, RELOADS + 2):
        show_progress(f"reload: {number - 1} of {RELOADS}")
        began = time.perf_counter()
        await asyncio.to_thread(publish, repository / "resnet18", number)
        await asyncio.to_thread(wait_until_served, number)
        reloads.append((began, time.perf_counter()))
        await asyncio.sleep(QUIET_S / RELOADS)
    stop.set()
    await asyncio.gather(*asking)
    return seen, reloads


def publish(model: Path, number: int) -> None:
    """Publish a copy of version 1 as another version, atomically."""
    partial = model / f"{number}.partial"
    partial.mkdir()
    for file in (model / "1").iterdir():
        if file.name == "manifest.json":
            (partial / file.name).write_text(json.dumps(json.loads(file.read_text()) | {"version": number}))
        else:
            os.link(file, partial / file.name)
    partial.rename(model / str(number))


def wait_until_served(number: int) -> None:
    """Wait until a version of ResNet-18 is served, and no other."""
    while True:
        with urlopen(f"http://127.0.0.1:{PORTS['normfold']}/v2/models/resnet18", timeout=30) as answer:
            if json.load(answer)["versions"] == [str(number)]:
                return
        time.sleep(0.02)
