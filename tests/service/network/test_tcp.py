"""TCP sockets of one host and of several."""

from __future__ import annotations

import socket

import pytest

from normfold.service.errors import AddressError
from normfold.service.network.tcp import bind_tcp


def close(listeners: list[socket.socket]) -> None:
    for listener in listeners:
        listener.close()


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no ::1")


@needs_ipv6
@pytest.mark.parametrize("hosts", [("127.0.0.1", "::1"), ("0.0.0.0", "::"), ("::", "127.0.0.1"), ("::1", "127.0.0.2")])
def test_tcp_hosts_have_the_same_port(hosts: tuple[str, ...]) -> None:
    listeners = bind_tcp(hosts, 0)
    try:
        assert [listener.getsockname()[0] for listener in listeners] == list(hosts)
        assert len({listener.getsockname()[1] for listener in listeners}) == 1
    finally:
        close(listeners)


@needs_ipv6
def test_tcp_host_of_ipv6_alone_accepts_ipv4_too() -> None:
    (listener,) = bind_tcp(("::",), 0)
    with listener, socket.create_connection(("127.0.0.1", listener.getsockname()[1]), timeout=5):
        pass


def test_tcp_hosts_that_are_the_same_address_are_opened_once() -> None:
    listeners = bind_tcp(("127.0.0.1", "127.0.0.1", "127.0.0.2"), 0)
    assert [listener.getsockname()[0] for listener in listeners] == ["127.0.0.1", "127.0.0.2"]
    close(listeners)


def test_tcp_port_in_use_on_one_host_closes_the_others() -> None:
    with socket.create_server(("127.0.0.2", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(AddressError, match=rf"Cannot listen on 127.0.0.2:{port}: Address already in use"):
            bind_tcp(("127.0.0.1", "127.0.0.2"), port)
        with socket.create_server(("127.0.0.1", port), reuse_port=False):
            pass


def test_tcp_free_port_is_chosen_again_if_another_host_uses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.2", 0)) as other:
        port, tried = other.getsockname()[1], []
        bind = socket.socket.bind

        def bind_in_use_first(self: socket.socket, address: tuple[str, int]) -> None:
            tried.append(address)
            bind(self, (address[0], port) if len(tried) == 1 else address)

        monkeypatch.setattr(socket.socket, "bind", bind_in_use_first)
        listeners = bind_tcp(("127.0.0.1", "127.0.0.2"), 0)
    assert len({listener.getsockname()[1] for listener in listeners} - {port}) == 1
    assert tried[1] == ("127.0.0.2", port)
    close(listeners)


@pytest.mark.parametrize("host", ["no such host", "host.invalid", "x" * 70, "1.2.3.4.5", ""])
def test_tcp_host_that_is_unknown_is_one_sentence(host: str) -> None:
    with pytest.raises(AddressError, match="the host is not known"):
        bind_tcp(("127.0.0.1", host), 0)


def test_tcp_host_of_another_machine_is_one_sentence() -> None:
    with pytest.raises(AddressError, match="choose another with --host"):
        bind_tcp(("192.0.2.1",), 0)
