"""The port of gRPC: found to be free before the service starts, since gRPC itself may share a port in silence.

All servers of all worker processes bind it with SO_REUSEPORT, and the kernel gives each connection to one of them.
Meanwhile the first process holds it with a socket that does not listen.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from normfold.service.errors import AddressError


@contextmanager
def reserved_port(host: str, port: int | None) -> Iterator[int | None]:
    """Check that nobody listens on a port, and hold it for the servers until the block is left.

    Args:
        host: name or address.
        port: 0 chooses a free one; None for no gRPC.

    Returns:
        The port.

    Raises:
        AddressError: the port is in use or not permitted, or the host is not known.
    """
    if port is None:
        yield None
        return
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen()  # of two sockets with SO_REUSEADDR, bind alone rejects neither
            address = probe.getsockname()
    except socket.gaierror as error:
        raise AddressError(host, port, f"the host is not known ({error.strerror}).") from None
    except OSError as error:
        raise AddressError(host, port, f"{error.strerror}; choose another with --grpc-port.") from None
    with socket.socket(family, kind, protocol) as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            holder.bind(address)
        except OSError:  # connections of a former service still close; from here on its socket does not reject others
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            holder.bind(address)
        yield int(address[1])
