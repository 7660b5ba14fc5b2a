"""A timer of an event loop that is exact to some tens of microseconds.

Timers of asyncio and uvloop wait whole milliseconds, which would be added to every latency that counts from a planned
time. Linux has timers that are files (timerfd_create(2)); Python offers them from version 3.13 on, so that ctypes calls
them here. Elsewhere the loop's own timer is used.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from time import perf_counter

_CLOCK_MONOTONIC = 1  # the clock of perf_counter on Linux
_ABSOLUTE_TIME = 1
_NS_PER_S = 1_000_000_000


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _TimerSpec(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


class Timer:
    """Calls a function at a time, once for each `set`.

    Args:
        call: the function.
    """

    def __init__(self, call: Callable[[], None]) -> None:
        self._loop, self._call = asyncio.get_running_loop(), call
        self._handle: asyncio.TimerHandle | None = None
        self._descriptor: int | None = None
        if sys.platform == "linux":
            self._libc = ctypes.CDLL(None, use_errno=True)
            descriptor = self._libc.timerfd_create(_CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
            if descriptor >= 0:
                self._descriptor = descriptor
                self._loop.add_reader(descriptor, self._expire)

    def set(self, at_s: float) -> None:
        """Call the function at a time of perf_counter; a time that has passed is now."""
        if self._descriptor is None:
            self._handle = self._loop.call_later(max(0.0, at_s - perf_counter()), self._call)
            return
        seconds, nanoseconds = divmod(max(1, int(at_s * _NS_PER_S)), _NS_PER_S)  # 0 would stop the timer
        spec = _TimerSpec(_Timespec(0, 0), _Timespec(seconds, nanoseconds))
        if self._libc.timerfd_settime(self._descriptor, _ABSOLUTE_TIME, ctypes.byref(spec), None):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    def close(self) -> None:
        """Call the function no more."""
        if self._handle is not None:
            self._handle.cancel()
        if self._descriptor is not None:
            self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = None

    def _expire(self) -> None:
        assert self._descriptor is not None
        with suppress(BlockingIOError):  # it was set again meanwhile
            os.read(self._descriptor, 8)
            self._call()
