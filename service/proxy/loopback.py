"""Host names and addresses of this machine itself."""

from __future__ import annotations

from ipaddress import ip_address


def is_loopback(host: str) -> bool:
    """Return whether a host name or address is this machine's own: RFC 6761, 6.3, and the loopback networks."""
    name = host.lower().removesuffix(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    return is_address(name) and ip_address(name.strip("[]")).is_loopback


def is_address(host: str) -> bool:
    """Return whether a host is an IPv4 or IPv6 address, in brackets or not."""
    try:
        ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True
