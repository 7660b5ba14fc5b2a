"""The machine of a measurement: one line with its processor and versions, and pinning to one core."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def machine_line(packages: Sequence[str]) -> str:
    """Return one line: processor, number of cores, Python, the packages' versions, the date."""
    versions = [f"{package} {_version(package)}" for package in packages]
    parts = [_processor(), f"{os.cpu_count()} cores", f"Python {platform.python_version()}", *versions]
    return ", ".join([*parts, date.today().isoformat()])


@contextmanager
def pinned(core: int) -> Iterator[None]:
    """Pin this thread, and the threads that it starts in the block, to one core, if the system supports it."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.is_file() else []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
