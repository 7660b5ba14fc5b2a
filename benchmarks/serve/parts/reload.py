"""Twenty new versions of ResNet-18, one after the other, under load on it and on another network."""

from __future__ import annotations

import asyncio
import json
import os
import time
from itertools import count
from pathlib import Path
from urllib.request import urlopen

import numpy as np

from benchmarks.progress import tell
from benchmarks.serve.client import Question, Seen, ask_on, questions
from benchmarks.serve.load import on_load_core
from benchmarks.serve.servers import PORTS, normfold

LIMITS = {
    "reload: requests that were not answered right": (0.0, "at most"),
    "reload: p99 of small while ResNet-18 is reloaded, of the quiet p99": (3.0, "at most"),
    "reload: p99 of resnet18 while it is reloaded, of the quiet p99": (3.0, "at most"),
}

RELOADS, QUIET_S = 20, 20.0
_POLL_S = 0.25


def measure_reload(folder: Path, repository: Path, rounds: int, seconds: float) -> dict[str, float]:
    """Publish version after version, and look at the requests that overlap with loading it."""
    del rounds, seconds
    pools = {name: questions(repository / name / "1" / "model.onnx", most_rows=1) for name in ("small", "resnet18")}
    settings = {"MODEL_CONTROL": "poll", "POLL_INTERVAL_S": str(_POLL_S), "VERSION_POLICY": "latest:1"}
    with (
        normfold(repository, folder, **{f"NORMFOLD_{name}": value for name, value in settings.items()}),
        on_load_core(),
    ):
        seen, reloads = asyncio.run(_reload(pools, repository))
    figures = {"reload: requests that were not answered right": float(sum(one.failed for one in seen.values()))}
    print(f"\nreload: {len(reloads)} reloads of {np.median([e - b for b, e in reloads]):.2f} s (median)")
    print(f"{'reload':12} {'requests':>9} {'failed':>7} {'quiet p99 ms':>13} {'reload p99 ms':>14} {'of them':>8}")
    for name, one in seen.items():
        overlapping = [any(b < end and start < e for b, e in reloads) for start, end in one.times]
        quiet, during = (
            np.percentile([1e3 * (e - s) for (s, e), o in zip(one.times, overlapping, strict=True) if o == wanted], 99)
            for wanted in (False, True)
        )
        print(f"{name:12} {len(one.times):9,} {one.failed:7} {quiet:13.2f} {during:14.2f} {sum(overlapping):8,}")
        title = "small while ResNet-18" if name == "small" else "resnet18 while it"
        figures[f"reload: p99 of {title} is reloaded, of the quiet p99"] = float(during / quiet)
    return figures


async def _reload(
    pools: dict[str, list[Question]], repository: Path
) -> tuple[dict[str, Seen], list[tuple[float, float]]]:
    """Return what was seen of each network, and when each reload began and ended."""
    seen, stop, reloads = {name: Seen() for name in pools}, asyncio.Event(), []
    port = PORTS["normfold"]
    asking = [
        asyncio.create_task(ask_on(port, f"/v2/models/{name}/infer", pool, seen[name], count(), stop, 10**9))
        for name, pool in pools.items()
        for _ in range(2)
    ]
    await asyncio.sleep(QUIET_S)
    for number in range(2, RELOADS + 2):
        tell(f"reload: {number - 1} of {RELOADS}")
        began = time.perf_counter()
        await asyncio.to_thread(publish, repository / "resnet18", number)
        await asyncio.to_thread(wait_until_served, number)
        reloads.append((began, time.perf_counter()))
        await asyncio.sleep(QUIET_S / RELOADS)
    stop.set()
    await asyncio.gather(*asking)
    return seen, reloads


def publish(model: Path, number: int) -> None:
    """Make a copy of version 1 appear whole as another version."""
    aside = model / f"{number}.partial"
    aside.mkdir()
    for file in (model / "1").iterdir():
        if file.name == "manifest.json":
            (aside / file.name).write_text(json.dumps(json.loads(file.read_text()) | {"version": number}))
        else:
            os.link(file, aside / file.name)
    aside.rename(model / str(number))


def wait_until_served(number: int) -> None:
    """Wait until a version of ResNet-18 answers, and is alone."""
    while True:
        with urlopen(f"http://127.0.0.1:{PORTS['normfold']}/v2/models/resnet18", timeout=30) as answer:
            if json.load(answer)["versions"] == [str(number)]:
                return
        time.sleep(0.02)
