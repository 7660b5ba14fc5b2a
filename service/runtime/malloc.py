"""glibc's allocator: one arena for all threads, and free memory returned to the system."""

from __future__ import annotations

import ctypes
import gc
from contextlib import suppress

_ARENA_MAX = -8
"""glibc's M_ARENA_MAX."""


def use_one_arena() -> None:
    """Let all threads allocate from one arena (glibc only); call it before threads start.

    By default each thread gets its own, and memory that one has freed is of no use to another: under three times the
    load that it can serve, a service of ResNet-18 held 65 MB more and kept growing. Little is lost, since nearly all
    threads that allocate hold the GIL anyway. If a thread has an arena already, `trim` leaves the free memory at the
    end of that arena where it is.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_ARENA_MAX, 1)


def release_memory() -> None:
    """Collect garbage, then return free memory to the system (glibc only).

    A network's weights and workspace are freed with its session, but glibc keeps the memory.
    """
    gc.collect()
    trim()


def trim() -> None:
    """Return free memory to the system (glibc only); other threads run meanwhile."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
