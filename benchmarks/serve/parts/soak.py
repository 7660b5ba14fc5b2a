"""A million requests over HTTP and gRPC, some cancelled, and a hundred loads and unloads.

It finds growth of memory, and lost, duplicate or swapped responses.
"""

from __future__ import annotations

import asyncio
from itertools import count
from pathlib import Path
from urllib.request import Request, urlopen

from benchmarks.progress import show_progress
from benchmarks.serve.client import CheckedRequest, ClientResult, make_checked_requests, send_on_connection
from benchmarks.serve.grpc_client import call_on_channel
from benchmarks.serve.load import on_load_core, rss_mb
from benchmarks.serve.servers import PORTS, normfold

LIMITS = {
    "soak: requests that failed": (0.0, "at most"),
    "soak: memory at the end, of that after a tenth": (1.05, "at most"),
}

REQUESTS, LOADS = 1_000_000, 100
HTTP_CONNECTIONS, GRPC_CONNECTIONS = 12, 4


def measure_soak(folder: Path, repository: Path, rounds: int, seconds: float) -> dict[str, float]:
    """Send a million requests to the small network, while ResNet-18 is loaded and unloaded a hundred times."""
    del folder, rounds, seconds
    pool = make_checked_requests(repository / "small" / "1" / "model.onnx")
    settings = {"NORMFOLD_MODEL_CONTROL": "explicit", "NORMFOLD_GRPC_PORT": str(PORTS["grpc"])}
    with normfold(repository, **settings) as process:
        post("/v2/repository/models/small/load")
        with on_load_core():
            seen, memory = asyncio.run(_soak(pool, process))
    early, late = memory[LOADS // 10 - 1], memory[-1]
    answered = seen.statuses.total()
    print(f"\nsoak: {answered:,} requests answered, statuses {dict(seen.statuses)}, {seen.wrong} wrong;")
    print(f"{seen.cancelled:,} cancelled")
    print(f"{LOADS} loads and unloads of ResNet-18; memory {early:.0f} MiB after a tenth, then {late:.0f} MiB")
    return {
        "soak: requests that failed": REQUESTS - answered - seen.cancelled + seen.failed,
        "soak: memory at the end, of that after a tenth": late / early,
    }


async def _soak(pool: list[CheckedRequest], process: int) -> tuple[ClientResult, list[float]]:
    """Return the client's results, and the memory in MiB after each unload."""
    seen, ids, stop, memory = ClientResult(), count(), asyncio.Event(), []
    path = "/v2/models/small/infer"
    asking = [
        asyncio.create_task(send_on_connection(PORTS["normfold"], path, pool, seen, ids, stop, REQUESTS, cancels=True))
        for _ in range(HTTP_CONNECTIONS)
    ]
    asking += [
        asyncio.create_task(call_on_channel(PORTS["grpc"], "small", pool, seen, ids, stop, REQUESTS, cancels=True))
        for _ in range(GRPC_CONNECTIONS)
    ]
    for load in range(1, LOADS + 1):
        while (done := seen.statuses.total() + seen.cancelled) < REQUESTS * load / LOADS - len(asking):
            show_progress(f"soak: {done:,} of {REQUESTS:,} requests, {load - 1} of {LOADS} loads")
            seen.times.clear()  # not used here
            await asyncio.sleep(0.2)
        await asyncio.to_thread(post, "/v2/repository/models/resnet18/load")
        await asyncio.to_thread(post, "/v2/repository/models/resnet18/unload")
        await asyncio.sleep(0.2)  # the session is closed after the response
        memory.append(rss_mb(process))
    await asyncio.gather(*asking)
    return seen, memory


def post(path: str) -> None:
    """Send a POST request without a body; raise unless the status is 200."""
    with urlopen(Request(f"http://127.0.0.1:{PORTS['normfold']}{path}", method="POST"), timeout=60):
        pass
