"""The sockets on which the service accepts HTTP: those of systemd, or a Unix socket, or TCP, or the last two."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from normfold.service.network.socket_activation import take_inherited_sockets
from normfold.service.network.tcp import bind_tcp
from normfold.service.network.unix_socket import unix_listener
from normfold.service.settings import Settings


@contextmanager
def open_listeners(settings: Settings) -> Iterator[Sequence[socket.socket]]:
    """Open the sockets that the settings ask for, and close them when the block is left.

    Sockets that systemd passes replace all others. With `uds`, TCP is opened only if `host` or `port` is set too.

    Yields:
        Sockets that listen; those of TCP come first.

    Raises:
        AddressError: a port cannot be opened.
        UnixSocketError: the Unix socket cannot be opened.
        SocketActivationError: an inherited socket cannot be used.
    """
    with ExitStack() as stack:
        listeners = take_inherited_sockets()
        uses_tcp = settings.uds is None or bool(settings.model_fields_set & {"host", "port"})
        if not listeners and uses_tcp:
            listeners = bind_tcp(settings.hosts, settings.port)
        elif listeners:
            settings = settings.model_copy(update={"uds": None})
        for listener in listeners:
            stack.enter_context(listener)
        if settings.uds is not None:
            listeners.append(stack.enter_context(unix_listener(settings.uds, int(settings.uds_permissions, 8))))
        yield listeners
