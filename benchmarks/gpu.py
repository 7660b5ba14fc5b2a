"""Networks and the service on an NVIDIA GPU: `make bench-gpu`. Needs the extra `gpu` in place of `cpu`.

    fold     milliseconds per run of the unfolded and the folded network, by batch size, from and to host memory
    shapes   the same with another batch size in every run, in one session, and in one session for each batch size
    serve    rows per second of the service (binary, one row per request), compared with a bare loop of session.run

With --precision instead: ResNet-50 and MobileNetV2 in float32 and float16, beside torch (`benchmarks.gpu_precision`).

Sessions are opened as the service opens them. Rounds are interleaved; medians count. The load runs in processes of its
own, without pinning, since machines with a GPU have enough cores.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np

from benchmarks.gpu_precision import print_precisions, seconds_of
from benchmarks.machine import machine_line
from benchmarks.progress import show_progress
from benchmarks.serve.load import Request, wait_until_ready
from benchmarks.serve.networks import MAKERS, infer_request
from normfold.contract.errors import NormfoldError
from normfold.export.bundle.export import export_bundle
from normfold.service.runtime.session import Session
from normfold.service.runtime.session_factory import open_session

PACKAGES = ("onnxruntime", "onnxruntime-gpu", "numpy")
NETWORK = "resnet18"
ROWS = (1, 8, 32)
CONNECTIONS = (1, 8, 32, 64)
_CLIENTS = 4
"""Client processes."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="make bench-gpu")
    parser.add_argument("--provider", default="cuda", help="(default: %(default)s)")
    parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="of the provider")
    parser.add_argument("--workers", type=int, default=1, help="of the service (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each load (default: %(default)s)")
    parser.add_argument("--precision", action="store_true", help="float32 and float16, beside torch")
    arguments = parser.parse_args()
    options = dict(option.split("=", 1) for option in arguments.option)
    open_it = partial(open_session, provider=arguments.provider, intra_op_threads=1, options=options)
    print(f"{gpu_line()}; {machine_line(PACKAGES)}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if arguments.precision:
            print_precisions(folder, arguments.rounds)
            return
        show_progress(f"making {NETWORK}")
        exported = MAKERS[NETWORK](folder)
        export_bundle(exported, folder / "repository", NETWORK)
        folded = folder / "repository" / NETWORK / "1" / "model.onnx"
        try:
            sessions = {"as exported": open_it(exported), "folded": open_it(folded)}
        except NormfoldError as error:
            raise SystemExit(str(error)) from None
        bare = compare(sessions, arguments.rounds)
        change_shapes([open_it(folded) for _ in ROWS], arguments.rounds)
        settings = {"PROVIDER": arguments.provider, "PROVIDER_OPTIONS": json.dumps(options)}
        serve(folder / "repository", settings | {"WORKERS": str(arguments.workers)}, arguments.seconds, bare)


def gpu_line() -> str:
    """Return the GPU's name and its driver."""
    command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "no NVIDIA GPU"


def compare(sessions: Mapping[str, Session], rounds: int) -> dict[int, float]:
    """Print the milliseconds per run of both sessions; return the rows per second of the second, by batch size."""
    for name, session in sessions.items():
        print(f"{name}: {session.placement}")
    print(f"\n{'rows':>5} {'as exported':>12} {'folded':>9} {'ratio':>7}   (ms a run)")
    rates = {}
    for rows in ROWS:
        runs = {name: run_of(session, rows) for name, session in sessions.items()}
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(rounds):
            for name, run in runs.items():
                seconds[name].append(seconds_of(run))
        before, after = (statistics.median(times) for times in seconds.values())
        print(f"{rows:5} {1e3 * before:12.3f} {1e3 * after:9.3f} {after / before:7.3f}")
        rates[rows] = rows / after
    return rates


def change_shapes(sessions: Sequence[Session], rounds: int) -> None:
    """Print the milliseconds per run with changing batch sizes, in one session, and in one session for each."""
    in_one = partial(run_all, [run_of(sessions[0], rows) for rows in ROWS])
    in_each = partial(run_all, [run_of(session, rows) for session, rows in zip(sessions, ROWS, strict=True)])
    seconds = [[seconds_of(run) / len(ROWS) for run in (in_one, in_each)] for _ in range(rounds)]
    one, each = (statistics.median(times) for times in zip(*seconds, strict=True))
    rows = ", ".join(map(str, ROWS))
    print(f"\n{rows} rows by turns: {1e3 * one:.3f} ms a run in one session, {1e3 * each:.3f} in one each")


def run_all(runs: Sequence[Callable[[], Any]]) -> None:
    """Call each run once."""
    for run in runs:
        run()


def run_of(session: Session, rows: int) -> Callable[[], Any]:
    """Return a function that runs the session on a batch, after warm-up runs."""
    images = np.random.default_rng(0).standard_normal((rows, 3, 224, 224)).astype(np.float32)
    (name,), outputs = session.inputs, list(session.outputs)
    for _ in range(5):
        session.run({name: images}, outputs)
    return lambda: session.run({name: images}, outputs)


def serve(repository: Path, settings: Mapping[str, str], seconds: float, bare: Mapping[int, float]) -> None:
    """Print throughput and latency of the service for several numbers of connections."""
    row = np.random.default_rng(1).standard_normal((1, 3, 224, 224)).astype(np.float32)
    sent = infer_request(repository, NETWORK, row, binary=True)
    print("\nbare loop of session.run, rows/s: " + ", ".join(f"{rate:.0f} by {rows}" for rows, rate in bare.items()))
    with normfold(repository, settings) as port, ProcessPoolExecutor(_CLIENTS) as pool:
        with urlopen(f"http://127.0.0.1:{port}/v2/models/{NETWORK}/config") as answer:
            print(f"the service runs up to {json.load(answer)['max_batch_size']} rows at once")
        print(f"{'connections':>11} {'rows/s':>8} {'p50 ms':>8} {'p99 ms':>8} {'service / bare loop':>19}")
        for connections in CONNECTIONS:
            clients = min(_CLIENTS, connections)
            loads = [pool.submit(load, port, sent, connections // clients, seconds) for _ in range(clients)]
            times = sorted(ms for each in loads for ms in each.result())
            rate = len(times) / seconds
            p50, p99 = (times[int(share * len(times))] for share in (0.5, 0.99))
            print(f"{connections:11} {rate:8.0f} {p50:8.2f} {p99:8.2f} {rate / bare[1]:19.2f}")


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


if __name__ == "__main__":
    main()
