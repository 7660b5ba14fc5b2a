"""Sockets that systemd has opened and passes to the service (sd_listen_fds(3)).

LISTEN_PID is the id of the process that they are for, LISTEN_FDS their number; their file descriptors begin at 3, and
LISTEN_FDNAMES has their names, with a colon between two.
"""

from __future__ import annotations

import os
import socket
import stat

from normfold.service.errors import SocketActivationError

_FIRST_DESCRIPTOR = 3


def take_inherited_sockets() -> list[socket.socket]:
    """Return the sockets that were passed to this process; none if there are none.

    The variables are removed from the environment, and the descriptors are closed in processes that are started later.

    Raises:
        SocketActivationError: one of them is no socket that listens for connections.
    """
    process, count, names = (os.environ.pop(f"LISTEN_{name}", "") for name in ("PID", "FDS", "FDNAMES"))
    if process != str(os.getpid()) or not count:
        return []
    if not (count.isascii() and count.isdecimal()):
        raise SocketActivationError(f"LISTEN_FDS is {count!r}, which is no number.")
    named = names.split(":")
    found = []
    for index in range(int(count)):
        name = named[index] if index < len(named) and named[index] else "unknown"
        found.append(_open(_FIRST_DESCRIPTOR + index, name))
    return found


def _open(descriptor: int, name: str) -> socket.socket:
    socket_text = f"The inherited socket {name!r} (file descriptor {descriptor})"
    try:
        is_socket = stat.S_ISSOCK(os.fstat(descriptor).st_mode)
    except OSError:
        raise SocketActivationError(f"{socket_text} is not open.") from None
    if not is_socket:
        raise SocketActivationError(f"{socket_text} is no socket; use ListenStream= in the .socket unit.")
    os.set_inheritable(descriptor, False)
    listener = socket.socket(fileno=descriptor)
    if listener.family not in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX) or listener.type != socket.SOCK_STREAM:
        listener.detach()
        raise SocketActivationError(f"{socket_text} is no stream socket; use ListenStream= in the .socket unit.")
    if not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        listener.detach()
        raise SocketActivationError(f"{socket_text} does not listen; use Accept=no in the .socket unit.")
    return listener
