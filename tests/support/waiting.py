"""Waiting for an event in another thread or process, and for a service to be loaded or ready."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import httpx

CLOSE = {"Connection": "close"}
"""The connection is not kept: a test may kill the worker process at its other end."""


def wait_for(condition: Callable[[], object], timeout_s: float = 20, poll_s: float = 0.001) -> None:
    """Return once a condition holds.

    Args:
        condition: called again and again until it returns something true.
        timeout_s: how long to try.
        poll_s: pause between two calls.

    Raises:
        AssertionError: the condition did not hold within `timeout_s`.
    """
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{condition} did not hold within {timeout_s:g} s"
        time.sleep(poll_s)


def wait_until_loaded(client: httpx.Client) -> dict[str, Any]:
    """Wait until every bundle is ready or unavailable; return the last body of `/v2/health/ready`."""
    body: dict[str, Any] = {}

    def is_loaded() -> bool:
        nonlocal body
        body = client.get("/v2/health/ready", headers=CLOSE).json()
        return body.get("error") != "The models are being loaded."

    wait_for(is_loaded, timeout_s=30)
    return body


def wait_until_ready(client: httpx.Client) -> None:
    """Wait until `/v2/health/ready` answers with 200."""
    wait_for(lambda: client.get("/v2/health/ready", headers=CLOSE).status_code == 200, timeout_s=30)
