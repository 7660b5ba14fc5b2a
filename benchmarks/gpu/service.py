"""Rows per second and latency of the service on a GPU, beside a bare loop of session.run.

The load runs in processes of its own, without pinning, since machines with a GPU have enough cores.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from urllib.request import urlopen

import numpy as np

from benchmarks.serve.load import Request, wait_until_ready
from benchmarks.serve.networks import infer_request
from normfold.contract.manifest import read_manifest

CONNECTIONS = (1, 8, 32, 64)
_CLIENTS = 4
"""Client processes."""


def serve(
    repository: Path, network: str, settings: Mapping[str, str], seconds: float, bare: Mapping[int, float]
) -> None:
    """Print what the service tried while it loaded, and its throughput and latency for several connections."""
    shape = read_manifest(repository / network / "1" / "manifest.json").inputs[0].shape
    row = np.random.default_rng(1).standard_normal((1, *shape[1:])).astype(np.float32)
    sent = infer_request(repository, network, row, binary=True)
    print("\nbare loop of session.run, rows/s: " + ", ".join(f"{rate:.0f} by {rows}" for rows, rate in bare.items()))
    with normfold(repository, settings) as port, ProcessPoolExecutor(_CLIENTS) as pool:
        with urlopen(f"http://127.0.0.1:{port}/v2/models/{network}/config") as answer:
            config = json.load(answer)
        for name, value in config["parameters"].items():
            if name.startswith("tuning."):
                print(f"{name.removeprefix('tuning.')}: {value['string_value']}")
        print(f"the service runs up to {config['max_batch_size']} rows at once", flush=True)
        print(f"{'connections':>11} {'rows/s':>8} {'p50 ms':>8} {'p99 ms':>8} {'service / bare loop':>19}")
        for connections in CONNECTIONS:
            clients = min(_CLIENTS, connections)
            loads = [pool.submit(load, port, sent, connections // clients, seconds) for _ in range(clients)]
            times = sorted(ms for each in loads for ms in each.result())
            rate = len(times) / seconds
            p50, p99 = (times[int(share * len(times))] for share in (0.5, 0.99))
            print(f"{connections:11} {rate:8.0f} {p50:8.2f} {p99:8.2f} {rate / bare[1]:19.2f}", flush=True)


@contextlib.contextmanager
def normfold(repository: Path, settings: Mapping[str, str]) -> Iterator[int]:
    """Serve a repository on a free port, its access log to a file, until the block is left."""
    command = [sys.executable, "-m", "normfold", "serve", "--repository", str(repository), "--port", "0", "--json"]
    chosen = {"ACCESS_LOG": str(repository.parent / "access.log"), "LOG_LEVEL": "warning", **settings}
    environment = os.environ | {f"NORMFOLD_{name}": value for name, value in chosen.items()}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            port = int(json.loads(process.stdout.readline())["url"].rsplit(":", 1)[1])
            wait_until_ready(f"http://127.0.0.1:{port}/v2/health/ready", process)
            yield port
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)


def load(port: int, request: Request, connections: int, seconds: float) -> list[float]:
    """Send requests over several connections, with a second of warm-up; return the milliseconds of each response."""
    import uvloop

    return uvloop.run(_load(port, request.as_bytes(), connections, seconds))


async def _load(port: int, sent: bytes, connections: int, seconds: float) -> list[float]:
    started, times = time.perf_counter() + 1.0, []

    async def ask() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while (began := time.perf_counter()) < started + seconds:
            writer.write(sent)
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(head.decode())
            await reader.readexactly(int(re.search(rb"\r\ncontent-length: (\d+)", head)[1]))  # type: ignore[index]
            if (ended := time.perf_counter()) > started and ended < started + seconds:
                times.append(1e3 * (ended - began))
        writer.close()

    await asyncio.gather(*(ask() for _ in range(connections)))
    return times
