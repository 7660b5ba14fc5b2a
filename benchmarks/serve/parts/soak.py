"""A million requests and a hundred loads and unloads: does memory grow, is any answer lost, doubled or mixed up?"""

from __future__ import annotations

import asyncio
from itertools import count
from pathlib import Path
from urllib.request import Request, urlopen

from benchmarks.progress import tell
from benchmarks.serve.client import Question, Seen, ask_on, questions
from benchmarks.serve.load import on_load_core, rss_mb
from benchmarks.serve.servers import PORTS, normfold

LIMITS = {
    "soak: requests that were not answered right": (0.0, "at most"),
    "soak: memory at the end, of that after a tenth": (1.05, "at most"),
}

REQUESTS, LOADS, CONNECTIONS = 1_000_000, 100, 16


def measure_soak(folder: Path, repository: Path, rounds: int, seconds: float) -> dict[str, float]:
    """Ask the small network a million times, while ResNet-18 is loaded and unloaded a hundred times beside it."""
    del rounds, seconds
    pool = questions(repository / "small" / "1" / "model.onnx")
    with normfold(repository, folder, NORMFOLD_MODEL_CONTROL="explicit") as process:
        post("/v2/repository/models/small/load")
        with on_load_core():
            seen, memory = asyncio.run(_soak(pool, process))
    early, late = memory[LOADS // 10 - 1], memory[-1]
    print(f"\nsoak: {seen.statuses.total():,} requests, answers {dict(seen.statuses)}, {seen.wrong} of them wrong; ")
    print(f"{LOADS} loads and unloads of ResNet-18; memory {early:.0f} MiB after a tenth, then {late:.0f} MiB")
    return {
        "soak: requests that were not answered right": REQUESTS - seen.statuses.total() + seen.failed,
        "soak: memory at the end, of that after a tenth": late / early,
    }


async def _soak(pool: list[Question], process: int) -> tuple[Seen, list[float]]:
    """Return what was seen, and the memory after each unload."""
    seen, ids, stop, memory = Seen(), count(), asyncio.Event(), []
    path = "/v2/models/small/infer"
    asking = [
        asyncio.create_task(ask_on(PORTS["normfold"], path, pool, seen, ids, stop, REQUESTS))
        for _ in range(CONNECTIONS)
    ]
    for load in range(1, LOADS + 1):
        while seen.statuses.total() < REQUESTS * load / LOADS - CONNECTIONS:
            tell(f"soak: {seen.statuses.total():,} of {REQUESTS:,} requests, {load - 1} of {LOADS} loads")
            seen.times.clear()  # nobody looks at them
            await asyncio.sleep(0.2)
        await asyncio.to_thread(post, "/v2/repository/models/resnet18/load")
        await asyncio.to_thread(post, "/v2/repository/models/resnet18/unload")
        await asyncio.sleep(0.2)  # what is unloaded is closed behind the answer
        memory.append(rss_mb(process))
    await asyncio.gather(*asking)
    return seen, memory


def post(path: str) -> None:
    """Send a request without a body; raise if it is not answered 200."""
    with urlopen(Request(f"http://127.0.0.1:{PORTS['normfold']}{path}", method="POST"), timeout=60):
        pass
