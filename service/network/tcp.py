"""TCP sockets: one for each host, all on the same port."""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence
from typing import NamedTuple

from normfold.service.errors import AddressError

BACKLOG = 2048
"""Connections that the kernel holds until the service accepts them."""

_MAX_ATTEMPTS = 20
"""How often a free port is chosen: the one that is free on the first host may be in use on another."""


class _Address(NamedTuple):
    """A host, as it was given, and what it stands for; `address` is that of a socket, with port 0."""

    host: str
    family: socket.AddressFamily
    address: tuple[str, int] | tuple[str, int, int, int]


def bind_tcp(hosts: Sequence[str], port: int) -> list[socket.socket]:
    """Open a port of every host, before the server starts: a port in use is an error of one sentence.

    Args:
        hosts: names or addresses; those that stand for the same address are opened once. If there are several, an IPv6
            address does not accept connections of IPv4.
        port: 0 chooses a port that is free on all of them.

    Returns:
        Sockets that listen, in the order of `hosts`.

    Raises:
        AddressError: an address is in use, not permitted, or unknown.
    """
    addresses = _resolve_all(hosts, port)
    for attempt in range(_MAX_ATTEMPTS):
        try:
            return _bind_all(addresses, port, v6_only=len(addresses) > 1)
        except AddressError:
            if port or len(addresses) == 1 or attempt == _MAX_ATTEMPTS - 1:
                raise
    raise AssertionError("the last attempt returns or raises")


def _resolve_all(hosts: Sequence[str], port: int) -> list[_Address]:
    found: dict[object, _Address] = {}
    for host in hosts:
        try:
            family, _, _, _, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or "it is no name of a host"
            raise AddressError(host, port, f"the host is not known ({reason}).") from None
        found.setdefault((family, address), _Address(host, family, address))  # type: ignore[arg-type]  # an address of IP
    return list(found.values())


def _bind_all(addresses: Sequence[_Address], port: int, v6_only: bool) -> list[socket.socket]:
    listeners: list[socket.socket] = []
    try:
        for address in addresses:
            listeners.append(_bind(address, port, v6_only))
            port = listeners[0].getsockname()[1]
    except BaseException:
        for listener in listeners:
            listener.close()
        raise
    return listeners


def _bind(address: _Address, port: int, v6_only: bool) -> socket.socket:
    listener = socket.socket(address.family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if v6_only and address.family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        host, _, *scope = address.address
        listener.bind((host, port, *scope))
        listener.listen(BACKLOG)  # from here on connections wait for the server
    except OSError as error:
        listener.close()
        other = "--host" if error.errno == errno.EADDRNOTAVAIL else "--port"
        raise AddressError(address.host, port, f"{error.strerror}; choose another with {other}.") from None
    return listener
