"""What `normfold serve` says when it listens: the addresses, and a warning if everyone on the network can use it."""

from __future__ import annotations

import ipaddress
import json
import logging
import socket
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from normfold.service.settings import Settings

logger = logging.getLogger("normfold.cli.commands.serve")


def announce(listeners: Sequence[socket.socket], as_json: bool, settings: Settings) -> None:
    """Log the addresses, and a warning if they are open to everyone; with `as_json` also print the addresses.

    Args:
        listeners: open sockets.
        as_json: write one line to standard output: of the first address of TCP `url`, `host` and `port`; of several
            `urls`; `uds`, the path of a Unix socket; `grpc_port`.
        settings: of the service.
    """
    scheme = "http" if settings.tls_cert is None else "https"
    addresses = [listener.getsockname() for listener in listeners if listener.family != socket.AF_UNIX]
    paths = [_printable(listener.getsockname()) for listener in listeners if listener.family == socket.AF_UNIX]
    urls = [_url(scheme, *address[:2]) for address in addresses]
    if urls:
        logger.info("Listening on %s (pages at %s/docs); Ctrl-C stops.", " and ".join(urls), urls[0])
    for path in paths:
        logger.info("Listening on the Unix socket %s; Ctrl-C stops.", path)
    if as_json:
        facts: dict[str, Any] = {}
        if urls:
            facts |= {"url": urls[0], "host": addresses[0][0], "port": addresses[0][1]}
        if len(urls) > 1:
            facts["urls"] = urls
        if paths:
            facts["uds"] = paths[0]
        if settings.grpc_port is not None:
            facts["grpc_port"] = settings.grpc_port
        sys.stdout.write(json.dumps(facts) + "\n")
        sys.stdout.flush()
    _warn_of_open_addresses([address[0] for address in addresses], settings)
    _warn_of_unused_tls(bool(addresses), settings)


def _warn_of_open_addresses(hosts: Sequence[str], settings: Settings) -> None:
    needs_certificate = settings.tls_client_ca is not None and settings.tls_client_auth == "required"
    if settings.keys is not None or needs_certificate:
        return
    for host in hosts:
        if not ipaddress.ip_address(host).is_loopback:
            logger.warning(
                "Anyone who reaches %s can use this service: it has no keys; see 'normfold keys create' and --keys.",
                host,
            )


def _warn_of_unused_tls(listens_on_tcp: bool, settings: Settings) -> None:
    """Log a warning where a certificate, or an authority of clients, does less than it seems."""
    if settings.tls_cert is None:
        return
    if not listens_on_tcp:
        used = "only gRPC uses TLS" if settings.grpc_port is not None else "nothing uses TLS"
        text = (
            "The certificate is not for a Unix socket, which has no TLS: %s. --host or --port adds an address with TLS."
        )
        logger.warning(text, used)
    if settings.grpc_port is not None and settings.tls_client_ca is not None and settings.tls_client_auth == "optional":
        logger.warning(
            "gRPC asks clients for no certificate, since it cannot make one optional; HTTP checks those that are sent."
        )


def _url(scheme: str, host: str, port: int) -> str:
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _printable(path: str | bytes) -> str:
    """Return the path of a Unix socket; @ stands for the null byte of an abstract one."""
    return (path if isinstance(path, str) else path.decode(errors="replace")).replace("\0", "@")
