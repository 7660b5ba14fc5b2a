"""Time and peak memory of work in a process of its own, sampled from outside.

The child process imports its modules and calls `timed(work)`; time and memory before that do not count. Memory is
sampled from outside since protobuf blocks every other thread of its process.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path


def run_and_sample(module: str, arguments: Sequence[str], every_s: float = 0.0005) -> tuple[float, int]:
    """Run `python -m module arguments`; return its seconds, and the peak increase of its anonymous memory in bytes.

    Args:
        module: it calls `timed` once.
        arguments: of its command line.
        every_s: seconds between two samples of RssAnon.
    """
    command = [sys.executable, "-m", module, *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()  # written after the imports
        before = peak = _anonymous_bytes(process.pid) or 0
        process.stdin.write("go\n")
        process.stdin.flush()
        while (now := _anonymous_bytes(process.pid)) is not None:
            peak = max(peak, now)
            time.sleep(every_s)
        return float(process.stdout.readline()), peak - before


def timed(work: Callable[[], None]) -> None:
    """In the child process: report that the imports are done, wait for the sampling, run `work`, print its seconds."""
    print("ready", flush=True)
    sys.stdin.readline()
    started = time.perf_counter()
    work()
    print(time.perf_counter() - started, flush=True)


def _anonymous_bytes(pid: int) -> int | None:
    """Return the resident anonymous memory of a process, or None if it has ended."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:")), None)
