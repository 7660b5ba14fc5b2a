"""The addresses of proxies whose X-Forwarded-… headers are believed."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

ANY = "*"

_Network = IPv4Network | IPv6Network


def check_trusted(text: str) -> str:
    """Return an address, a network or `*` as it was given.

    Raises:
        ValueError: the text is none of them.
    """
    try:
        if text != ANY:
            ip_network(text)
    except ValueError:
        raise ValueError(f"{text!r} is neither an IP address, nor a network like 10.0.0.0/8, nor *") from None
    return text


class TrustedAddresses:
    """Addresses and networks of proxies.

    Args:
        trusted: as `check_trusted` takes them; `*` trusts every address.
    """

    def __init__(self, trusted: Iterable[str]) -> None:
        texts = tuple(trusted)
        self._any = ANY in texts
        self._networks: list[_Network] = [ip_network(text) for text in texts if text != ANY]
        self._known: dict[str, bool] = {}

    def __contains__(self, host: str) -> bool:
        """Return whether an address is trusted; a peer without one came over a Unix socket, from this machine."""
        if self._any or not host:
            return True
        known = self._known.get(host)
        if known is None:
            address = parse_address(host)
            known = address is not None and any(address in network for network in self._networks)
            if len(self._known) < 1024:
                self._known[host] = known
        return known


def parse_address(text: str) -> IPv4Address | IPv6Address | None:
    """Return an IP address, with or without a port, or None; an IPv4 address within IPv6 is IPv4."""
    text = text.strip()
    if text.startswith("["):  # [2001:db8::1]:8000
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:  # 192.0.2.1:8000
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return address.ipv4_mapped or address if isinstance(address, IPv6Address) else address
