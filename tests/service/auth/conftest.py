"""A service that needs keys."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from normfold.service.app import create_app
from normfold.service.auth.key_admin import create_key
from normfold.service.settings import Settings
from tests.support.bundles import BundleWriter
from tests.support.service import ALLOWED_ORIGIN, KeyedService, serve_app
from tests.support.waiting import wait_until_ready


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KeyedService]:
    """A service with keys of every scope and with two that may seldom ask, shared by the tests of a module."""
    folder = tmp_path_factory.mktemp("keys")
    writer = BundleWriter(folder / "repository")
    writer.root.mkdir()
    writer.digits()
    sent, ids = {}, {}
    slow = {"slow": {"rate": 0.01, "burst": 2}, "slower": {"rate": 0.01, "burst": 1}}
    for name, limits in {"infer": {}, "admin": {}, "metrics": {}, **slow}.items():
        key, sent[name] = create_key(folder / "keys.json", name, ["infer" if name in slow else name], **limits)
        ids[name] = key.id
    sent["wrong"], sent["nonsense"] = sent["infer"][:-1] + "x", "x"
    settings = Settings(
        repository=writer.root,
        provider="cpu",
        keys=folder / "keys.json",
        access_log=folder / "access.log",
        cors_origins=(ALLOWED_ORIGIN,),
    )
    with serve_app(create_app(settings), settings) as service:
        wait_until_ready(service.client)  # without a key the reason for not being ready is not shown
        yield KeyedService(folder, service, sent, ids)
