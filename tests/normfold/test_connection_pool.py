"""Connections of the client: kept, replaced when the service has closed them, and checked under https."""

from __future__ import annotations

import ssl
from collections.abc import Iterator

import pytest

from normfold._shared.http.connection_pool import ConnectionPool
from tests.support.bundles import BundleWriter
from tests.support.service import StartService


@pytest.fixture
def pool(bundles: BundleWriter, start: StartService) -> Iterator[ConnectionPool]:
    """Connections to a service without models."""
    pool = ConnectionPool(str(start(bundles.root).client.base_url), {}, timeout_s=20.0, ssl_context=None)
    yield pool
    pool.close()


def is_alive(pool: ConnectionPool) -> bool:
    return pool.request("GET", "/v2/health/live").status == 200


def test_connection_is_used_again(pool: ConnectionPool) -> None:
    assert is_alive(pool)
    connection, is_new = pool._connection()
    assert not is_new
    pool._keep(connection)


def test_connection_that_the_service_closed_is_replaced(pool: ConnectionPool) -> None:
    assert is_alive(pool)
    connection, _ = pool._connection()
    connection.sock.shutdown(2)
    pool._keep(connection)
    assert is_alive(pool)


def test_closed_pool_keeps_no_connection(pool: ConnectionPool) -> None:
    pool.close()
    assert is_alive(pool)
    _, is_new = pool._connection()
    assert is_new


def test_https_is_checked_against_trusted_certificates() -> None:
    pool = ConnectionPool("https://localhost", {}, timeout_s=20.0, ssl_context=None)
    connection, _ = pool._connection()
    assert pool._ssl is not None
    assert pool._ssl.verify_mode is ssl.CERT_REQUIRED
    assert connection.default_port == 443
