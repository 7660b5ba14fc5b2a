"""Processors that this process may use: by affinity and cgroup quota, not the host's count.

By default ONNX Runtime starts a thread for each of the host's cores; in a container with a quota of 2 processors on a
host of 64 these threads mostly wait for each other.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath


def available_processors(root: Path = Path("/")) -> int:
    """Return the processors that affinity and cgroup quota allow, at least 1; a quota of 2.5 counts as 2.

    Args:
        root: where `proc` and `sys` are found.
    """
    return max(1, math.floor(min(_affinity(), _cgroup_quota(root))))


def share_of_processors(workers: int) -> int:
    """Return the processors that each of several worker processes may use, at least 1."""
    return max(1, available_processors() // workers)


def _affinity() -> int:
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cgroup_quota(root: Path) -> float:
    """Return the smallest quota, in processors, of this process's cgroup and those above it, of version 1 and 2."""
    try:
        memberships = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return math.inf
    quota = math.inf
    for membership in memberships:
        _, controllers, path = membership.split(":", 2)
        if not controllers:
            quotas = (_quota_v2(folder) for folder in _upwards(root / "sys/fs/cgroup", path))
        elif "cpu" in controllers.split(","):
            quotas = (_quota_v1(folder) for folder in _upwards(root / "sys/fs/cgroup" / controllers, path))
        else:
            continue
        quota = min(quota, *quotas)
    return quota


def _upwards(mount: Path, path: str) -> Iterator[Path]:
    """Yield the cgroup's folder and all its parents; in a container the path may exist on the host only."""
    inside = PurePosixPath(path.lstrip("/"))
    for part in (inside, *inside.parents):
        if ".." not in part.parts:
            yield mount / part


def _quota_v2(folder: Path) -> float:
    try:
        quota, period = (folder / "cpu.max").read_text().split()
        return math.inf if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        return math.inf


def _quota_v1(folder: Path) -> float:
    try:
        quota = int((folder / "cpu.cfs_quota_us").read_text())
        period = int((folder / "cpu.cfs_period_us").read_text())
    except (OSError, ValueError):
        return math.inf
    return quota / period if quota > 0 and period > 0 else math.inf
