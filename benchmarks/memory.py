"""Seconds and peak memory of work that runs in a process of its own, sampled from outside.

The worker imports what it needs, calls `timed(work)`, and everything before that does not count. It is watched from
outside since protobuf keeps every other thread of its own process waiting.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path


def watch(module: str, arguments: Sequence[str], every_s: float = 0.0005) -> tuple[float, int]:
    """Run `python -m module arguments`; return its seconds, and by how many bytes its anonymous memory rose at most.

    Args:
        module: whose worker calls `timed` once.
        arguments: for it.
        every_s: seconds between two samples of RssAnon.
    """
    command = [sys.executable, "-m", module, *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()  # the imports are done
        before = peak = _anonymous_bytes(process.pid) or 0
        process.stdin.write("go\n")
        process.stdin.flush()
        while (now := _anonymous_bytes(process.pid)) is not None:
            peak = max(peak, now)
            time.sleep(every_s)
        return float(process.stdout.readline()), peak - before


def timed(work: Callable[[], None]) -> None:
    """In the worker: say that the imports are done, wait to be watched, work, print the seconds."""
    print("ready", flush=True)
    sys.stdin.readline()
    started = time.perf_counter()
    work()
    print(time.perf_counter() - started, flush=True)


def _anonymous_bytes(pid: int) -> int | None:
    """Return the anonymous memory of a process that is resident now, or None if it has ended."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:")), None)
