"""A Unix socket: a file that clients on the same machine connect to, if its permissions allow it."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic, sleep

from normfold.service.errors import UnixSocketError
from normfold.service.network.tcp import BACKLOG

_LOCK_TIMEOUT_S = 5.0
"""Seconds to wait for another service that opens a socket in the same folder."""

_PROBE_TIMEOUT_S = 1.0


@contextmanager
def unix_listener(path: Path, permissions: int) -> Iterator[socket.socket]:
    """Listen on a Unix socket until the block is left, and remove its file then.

    A socket that nobody listens on any more is replaced.

    Args:
        path: of the socket; its folder exists.
        permissions: of the file, which no one has before it gets them.

    Yields:
        The socket, which listens.

    Raises:
        UnixSocketError: another process listens on it, there is a file that is no socket, or the path cannot be used.
    """
    path = path.absolute()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _locked(path):
            _remove_stale(path)
            _bind(listener, path, permissions)
            listener.listen(BACKLOG)
            identity = _identity(path)
    except OSError as error:
        listener.close()
        raise UnixSocketError(path, f"{error.strerror or error}; choose another path with --uds.") from None
    except BaseException:
        listener.close()
        raise
    try:
        yield listener
    finally:
        listener.close()
        with suppress(OSError):  # it was removed, or its folder cannot be written any more
            if _identity(path) == identity:
                path.unlink()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Lock the folder: of two services that find the same socket stale, one would remove that of the other."""
    folder, deadline = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY), monotonic() + _LOCK_TIMEOUT_S
    try:
        while True:
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if monotonic() > deadline:
                    raise UnixSocketError(path, "another process has locked its folder.") from None
                sleep(0.05)
        yield
    finally:
        os.close(folder)


def _remove_stale(path: Path) -> None:
    """Remove a socket that nobody listens on."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if stat.S_ISDIR(mode):
        raise UnixSocketError(path, "it is a folder; give the path of a socket in it with --uds.")
    if not stat.S_ISSOCK(mode):
        raise UnixSocketError(path, "there is a file that is no socket; remove it, or choose another path with --uds.")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE_TIMEOUT_S)  # a process that does not accept connections still listens
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except (PermissionError, TimeoutError, BlockingIOError):
            pass
        except OSError as error:
            if error.errno != errno.EPROTOTYPE:  # a socket of another type, which is in use
                raise
    raise UnixSocketError(path, "another process listens on it; choose another path with --uds.")


def _bind(listener: socket.socket, path: Path, permissions: int) -> None:
    before = os.umask(0o777)  # nobody can connect until the permissions are set
    try:
        listener.bind(str(path))
    finally:
        os.umask(before)
    path.chmod(permissions)


def _identity(path: Path) -> tuple[int, int]:
    """Return what tells a file from another one that replaced it."""
    facts = path.lstat()
    return facts.st_dev, facts.st_ino
