"""Memory that was freed: kept in one place, and given back to the system."""

from __future__ import annotations

import ctypes
import gc
from contextlib import suppress

_ARENA_MAX = -8
"""glibc's M_ARENA_MAX."""


def use_one_arena() -> None:
    """Let all threads take memory from one place, where the C library can be told (glibc); before threads begin.

    It would give each thread its own, and what one has freed another could not use: under three times its load
    a service of ResNet-18 held 65 MB more, and went on growing. Nearly all that allocate hold Python's lock anyway.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_ARENA_MAX, 1)


def give_back() -> None:
    """Return freed memory to the system, where the C library can do that (glibc).

    A network's weights and workspace are freed with its session, but glibc keeps them for itself.
    """
    gc.collect()
    trim()


def trim() -> None:
    """Return what has been freed already; other threads go on meanwhile."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
