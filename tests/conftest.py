"""Fixtures that several packages' tests use; what they need is imported only where a test asks for them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.support.bundles import BundleWriter
    from tests.support.service import Service, StartService


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the service's settings out of the environment."""
    for name in list(os.environ):
        if name.upper().startswith("NORMFOLD_"):
            monkeypatch.delenv(name)


@pytest.fixture
def bundles(tmp_path: Path) -> BundleWriter:
    """A writer into an empty repository."""
    from tests.support.bundles import BundleWriter

    root = tmp_path / "repository"
    root.mkdir()
    return BundleWriter(root)


@pytest.fixture
def identity_repository(tmp_path: Path) -> Path:
    """A repository with one model, `same`, which returns its input."""
    from tests.support.bundles import BundleWriter

    BundleWriter(tmp_path).identity("FP32", "same", (-1, 2))
    return tmp_path


@pytest.fixture
def start() -> Iterator[StartService]:
    """Return a function that serves a repository until the test ends, as a rule with every bundle loaded."""
    from normfold.service.app import create_app
    from normfold.service.settings import Settings
    from tests.support.service import serve_app

    with contextlib.ExitStack() as stack:

        def start_service(root: Path, wait: bool = True, **settings: Any) -> Service:
            chosen = Settings(repository=root, **{"provider": "cpu", **settings})
            service = stack.enter_context(serve_app(create_app(chosen), chosen))
            if wait:
                service.wait_until_loaded()
            return service

        yield start_service
