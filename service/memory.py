"""Memory that was freed, given back to the system."""

from __future__ import annotations

import ctypes
import gc
from contextlib import suppress


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
