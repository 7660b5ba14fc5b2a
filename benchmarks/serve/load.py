"""Servers on one core and load on another: closed loops by wrk, and an open loop at a fixed rate."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.request import urlopen

SERVER_CORE, LOAD_CORE = 0, 1
_UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3}


@dataclass(frozen=True)
class Request:
    """A POST request that a client sends repeatedly."""

    path: str
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)

    def as_bytes(self) -> bytes:
        """Return the request with its head."""
        fields = {"Host": "127.0.0.1", "Content-Length": str(len(self.body))} | self.headers
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        return f"POST {self.path} HTTP/1.1\r\n{head}\r\n".encode() + self.body

    def as_script(self, folder: Path) -> Path:
        """Write the request as a script for wrk, and return its path."""
        body, script = folder / "body", folder / "request.lua"
        body.write_bytes(self.body)
        lines = ['wrk.method = "POST"', f'wrk.body = io.open("{body}", "rb"):read("*a")']
        lines += [f'wrk.headers["{name}"] = "{value}"' for name, value in self.headers.items()]
        script.write_text("\n".join(lines) + "\n")
        return script


@dataclass(frozen=True)
class ClosedLoopResult:
    """The measurements of wrk."""

    rate: float
    """Requests per second."""
    p50_ms: float
    p99_ms: float
    errors: int


@contextmanager
def server(
    command: list[str], port: int, ready: str | None, environment: dict[str, str] | None = None
) -> Iterator[int]:
    """Run a server on its core until the block is left; yield its process id.

    It is awaited until it answers the path `ready`, or accepts connections if that is None. Its log goes to a pipe that
    another process reads, as under a container engine or systemd.
    """
    pinned = ["taskset", "-c", str(SERVER_CORE), sys.executable, *command]
    collector = ["taskset", "-c", str(LOAD_CORE), "cat"]
    with (
        subprocess.Popen(collector, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as reader,
        subprocess.Popen(pinned, env=os.environ | (environment or {}), stderr=reader.stdin) as process,
    ):
        try:
            if ready is None:
                wait_until_open(port, process)
            else:
                wait_until_ready(f"http://127.0.0.1:{port}{ready}", process)
            yield process.pid
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=30)


def one_response(port: int, request: Request) -> bytes:
    """Send a request once, and return the body of its response."""
    url = f"http://127.0.0.1:{port}{request.path}"
    with urlopen(urllib.request.Request(url, request.body, request.headers), timeout=30) as response:
        body: bytes = response.read()
    return body


def closed_loop(port: int, request: Request, connections: int, seconds: float, folder: Path) -> ClosedLoopResult:
    """Send a request repeatedly over several connections with wrk, each after its previous response."""
    script = request.as_script(folder)
    command = ["taskset", "-c", str(LOAD_CORE), "wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--latency"]
    command += ["--timeout", "30s", "-s", str(script), f"http://127.0.0.1:{port}{request.path}"]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", text)[1])  # type: ignore[index]  # wrk always prints it
    failed = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    return ClosedLoopResult(rate, _latency(text, 50), _latency(text, 99), int(failed[1]) if failed else 0)


@dataclass
class OpenLoopResult:
    """The responses to an open loop, in order."""

    seconds: float
    responses: list[tuple[int, float, bool]] = field(default_factory=list)
    """Status, milliseconds, and whether there was a Retry-After header."""

    def served(self) -> list[float]:
        """Return the milliseconds of the requests with status 200."""
        return [ms for status, ms, _ in self.responses if status == 200]


def open_loop(port: int, request: Request, rate: float, seconds: float, connections: int) -> OpenLoopResult:
    """Send `rate` requests per second over persistent connections, independently of the responses.

    Latency counts from the time at which a request was due.
    """
    with on_load_core():
        return asyncio.run(_open_loop(port, request.as_bytes(), rate, seconds, connections))


@contextmanager
def on_load_core() -> Iterator[None]:
    """Pin this process to the core of the load."""
    os.sched_setaffinity(0, {LOAD_CORE})
    try:
        yield
    finally:
        os.sched_setaffinity(0, {SERVER_CORE, LOAD_CORE})


async def _open_loop(port: int, sent: bytes, rate: float, seconds: float, connections: int) -> OpenLoopResult:
    result, started = OpenLoopResult(seconds), time.perf_counter()
    due: asyncio.Queue[float] = asyncio.Queue()

    async def worker() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while (at := await due.get()) >= 0:
            writer.write(sent)
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(re.search(rb"\r\ncontent-length: (\d+)", head)[1])  # type: ignore[index]  # always there
            await reader.readexactly(length)
            status = int(head[9:12])
            result.responses.append((status, 1e3 * (time.perf_counter() - at), b"retry-after" in head))
            if b"connection: close" in head:
                writer.close()
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.close()

    workers = [asyncio.create_task(worker()) for _ in range(connections)]
    for index in range(int(rate * seconds)):
        at = started + index / rate
        await asyncio.sleep(max(0.0, at - time.perf_counter()))
        due.put_nowait(at)
    for _ in workers:
        due.put_nowait(-1)
    await asyncio.gather(*workers)
    return result


def rss_mb(process: int) -> float:
    """Return the resident memory of a process, in MiB."""
    text = Path(f"/proc/{process}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+) kB", text)[1]) / 1024  # type: ignore[index]  # always there


def _latency(text: str, percent: int) -> float:
    found = re.search(rf"^\s+{percent}%\s+([\d.]+)(us|ms|s)$", text, re.MULTILINE)
    assert found is not None  # asked for with --latency
    return float(found[1]) * _UNITS[found[2]]


def wait_until_ready(url: str, process: subprocess.Popen[Any]) -> None:
    """Wait until a server responds at `url`, while its process runs."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.02)
    raise SystemExit(f"{url} does not respond.")


def wait_until_open(port: int, process: subprocess.Popen[Any]) -> None:
    """Wait until a server accepts connections, while its process runs."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
            return
        except OSError:
            time.sleep(0.02)
    raise SystemExit(f"Port {port} does not open.")
