"""What lines are written to: open file descriptors, and standard error, whose reader may end."""

from __future__ import annotations

import errno
import os
import select
import stat
from contextlib import suppress
from typing import Protocol

FILE_WRITE_BYTES = 256 * 1024
"""Size of a write to a file: each is one append."""

_GONE = frozenset({errno.EPIPE, errno.EIO, errno.EBADF, errno.ECONNRESET})
"""Errors of writing that do not pass: the reader has ended, or the terminal was closed."""


class LineTarget(Protocol):
    """Where lines are written to; the thread of a `LineWriter` alone calls it.

    Attributes:
        write_bytes: lines are written in parts of at most so many bytes.
    """

    write_bytes: int

    def write(self, data: bytes) -> None:
        """Write whole lines.

        Raises:
            OSError: they cannot be written.
        """

    def close(self) -> None:
        """Release what is open."""


class DescriptorTarget:
    """An open file descriptor.

    Several processes may write to the same pipe: a write of at most `select.PIPE_BUF` bytes is not mixed with another
    one (POSIX, write()), so that lines stay whole.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.write_bytes = FILE_WRITE_BYTES if stat.S_ISREG(os.fstat(descriptor).st_mode) else select.PIPE_BUF

    def write(self, data: bytes) -> None:
        """Write whole lines."""
        write_all(self._descriptor, data)

    def close(self) -> None:
        """Close it."""
        os.close(self._descriptor)


class StandardErrorTarget(DescriptorTarget):
    """Standard error; once nobody can read it any more, it is redirected to /dev/null.

    Otherwise every later write of the process to it would fail, and the process would exit with another code.

    Args:
        descriptor: of standard error; the target writes to a duplicate.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__(os.dup(descriptor))
        self._original = descriptor

    def write(self, data: bytes) -> None:
        """Write whole lines."""
        try:
            super().write(data)
        except OSError as error:
            if error.errno in _GONE:
                self._redirect()
            raise

    def _redirect(self) -> None:
        with suppress(OSError):
            is_same = os.path.sameopenfile(self._original, self._descriptor)
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._descriptor, inheritable=False)
            if is_same:
                os.dup2(nowhere, self._original)
            os.close(nowhere)


def write_all(descriptor: int, data: bytes) -> None:
    """Write all bytes, also where a descriptor takes fewer at once, and wait where it takes none for now."""
    while data:
        try:
            data = data[os.write(descriptor, data) :]
        except BlockingIOError:  # whoever shares the pipe or the terminal has made it non-blocking
            poll = select.poll()
            poll.register(descriptor, select.POLLOUT)
            poll.poll()
