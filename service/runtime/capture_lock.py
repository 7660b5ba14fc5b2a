"""While a CUDA graph is captured, no other thread of this process may call CUDA.

ONNX Runtime captures in CUDA's global mode: an allocation, a copy or a synchronisation by another thread meanwhile
fails, and so does the capture. So runs and openings on accelerators overlap, and a capture excludes them all.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class CaptureLock:
    """Many runs at once, or one capture. A capture that waits goes before runs that come later."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._one_capture = threading.Lock()
        self._is_capturing = False
        self._running = 0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Exclude captures; a thread that is in it must not enter it again."""
        with self._changed:
            self._changed.wait_for(lambda: not self._is_capturing)
            self._running += 1
        try:
            yield
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify_all()

    @contextmanager
    def capturing(self) -> Iterator[None]:
        """Exclude runs and other captures."""
        with self._one_capture:
            with self._changed:
                self._is_capturing = True
                self._changed.wait_for(lambda: not self._running)
            try:
                yield
            finally:
                with self._changed:
                    self._is_capturing = False
                    self._changed.notify_all()


CAPTURE_LOCK = CaptureLock()
"""Of this process."""
