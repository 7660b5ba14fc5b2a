"""Which peers are trusted proxies."""

from __future__ import annotations

import pytest

from normfold.service.proxy.trusted_addresses import TrustedAddresses, check_trusted, parse_address


@pytest.mark.parametrize(
    ("trusted", "peer", "found"),
    [
        *(("127.0.0.1", "127.0.0.1", True), ("127.0.0.1", "127.0.0.2", False), ("::1", "::1", True)),
        *(("10.0.0.0/8", "10.2.3.4", True), ("10.0.0.0/8", "11.2.3.4", False), ("fd00::/8", "fd12::1", True)),
        *(
            ("10.0.0.0/8", "::ffff:10.2.3.4", True),
            ("10.0.0.0/8", "fd12::1", False),
            ("fe80::/10", "fe80::1%eth0", True),
        ),
        *(("*", "203.0.113.9", True), ("127.0.0.1", "", True), ("127.0.0.1", "testclient", False)),
    ],
)
def test_peer_is_trusted_by_address_or_network(trusted: str, peer: str, found: bool) -> None:
    addresses = TrustedAddresses((trusted,))

    assert (peer in addresses, peer in addresses) == (found, found)  # the second from memory


@pytest.mark.parametrize("text", ["localhost", "", "10.0.0.1/8", "1.2.3", "10.0.0.0/33", "**"])
def test_other_texts_are_no_addresses(text: str) -> None:
    with pytest.raises(ValueError, match="is neither an IP address"):
        check_trusted(text)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        *(("192.0.2.1", "192.0.2.1"), (" 192.0.2.1 ", "192.0.2.1"), ("192.0.2.1:80", "192.0.2.1")),
        *(("2001:db8::1", "2001:db8::1"), ("[2001:db8::1]:80", "2001:db8::1"), ("::ffff:192.0.2.1", "192.0.2.1")),
        *(("unknown", "None"), ("", "None"), ("192.0.2.1\n", "192.0.2.1"), ('"', "None")),
    ],
)
def test_address_is_read_with_or_without_a_port(text: str, address: str) -> None:
    assert str(parse_address(text)) == address
