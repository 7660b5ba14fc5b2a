"""Services with a shadow, and control over when it runs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from normfold.service.errors import RunError
from normfold.service.rollout.utilization import Utilization
from normfold.service.runtime.session import Session
from tests.support.bundles import BundleWriter
from tests.support.service import Service, StartService
from tests.support.waiting import wait_for

Compared = Callable[[Service, int], dict[str, Any]]


class ShadowRuns:
    """Controls the runs of shadows alone: those of versions that serve go on.

    Attributes:
        holds: set by the test: runs wait until it is cleared.
        running: set as soon as a run waits.
        fails: set by the test: runs fail.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.holds, self.running, self.go_on = threading.Event(), threading.Event(), threading.Event()
        self.fails = threading.Event()
        right = Session.run

        def run(session: Session, tensors: Any, outputs: Any, cancel: Any = None) -> Any:
            if threading.current_thread().name.startswith("shadow"):
                if self.holds.is_set():
                    self.running.set()
                    assert self.go_on.wait(timeout=20)
                if self.fails.is_set():
                    raise RunError("a node failed")
            return right(session, tensors, outputs, cancel)

        monkeypatch.setattr(Session, "run", run)


@pytest.fixture
def shadow_runs(monkeypatch: pytest.MonkeyPatch) -> ShadowRuns:
    """Control over the runs of shadows."""
    return ShadowRuns(monkeypatch)


@pytest.fixture
def never_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shadow runs however busy the machine of the tests is."""
    monkeypatch.setattr(Utilization, "is_busy", lambda _: False)


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> Compared:
    """Return a function that waits until so many requests are compared, and returns the body of GET …/shadow."""
    monkeypatch.setattr(Utilization, "is_busy", lambda _: False)

    def wait(service: Service, count: int) -> dict[str, Any]:
        body: dict[str, Any] = {}

        def is_done() -> bool:
            nonlocal body
            body = service.client.get("/v2/models/digits/shadow").json()
            return bool(body["requests"]["compared"] >= count)

        wait_for(is_done)
        return body

    return wait


@pytest.fixture
def shadowed(bundles: BundleWriter, start: StartService) -> Callable[..., Service]:
    """Return a function that serves version 1 of `digits`, and version 2 as its shadow."""

    def serve(bias: Any = (0.0, 1.5, 0.0), **settings: Any) -> Service:
        bundles.digits(1)
        bundles.digits(2, bias=bias)
        service = start(bundles.root, **{"shadow": "digits=2", "grpc_port": 0, **settings})
        wait_for(lambda: service.client.get("/v2/models/digits/shadow").json()["state"] == "READY")
        return service

    return serve
