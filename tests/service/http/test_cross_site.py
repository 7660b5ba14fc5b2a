"""Requests that change state, sent by web pages of other sites and under other host names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from normfold.service.errors import ForeignHostError, ForeignOriginError
from normfold.service.http.cross_site import CrossSiteCheck
from normfold.service.settings import Settings
from tests.support.bundles import BundleWriter
from tests.support.infer_bodies import PICTURE
from tests.support.service import StartService

UNLOAD = "/v2/repository/models/digits/unload"


def check(settings: dict[str, Any], path: str = UNLOAD, method: str = "POST", **headers: str) -> str:
    """Return what the check says of a request: passed, or what is foreign."""
    sent = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
    try:
        CrossSiteCheck(Settings(**settings)).check(method, path, sent)
    except ForeignOriginError:
        return "origin"
    except ForeignHostError:
        return "host"
    return "passed"


@pytest.mark.parametrize(
    ("expected", "headers"),
    [
        ("passed", {"host": "127.0.0.1:8000"}),
        ("passed", {"host": "localhost:8000"}),
        ("passed", {"host": "LOCALHOST.:8000"}),
        ("passed", {"host": "models.localhost"}),
        ("passed", {"host": "[::1]:8000"}),
        ("passed", {"host": "10.0.0.5"}),  # of a tunnel; no page chooses an address as its name
        ("passed", {"host": "localhost:8000", "origin": "http://localhost:8000"}),
        ("passed", {"host": "localhost", "origin": "http://localhost:80", "sec_fetch_site": "same-origin"}),
        ("passed", {"host": "localhost", "origin": "https://localhost"}),  # a proxy ends TLS
        ("passed", {"host": "localhost", "sec_fetch_site": "none"}),
        ("origin", {"host": "localhost:8000", "origin": "https://other.example"}),
        ("origin", {"host": "localhost:8000", "origin": "http://localhost:3000"}),
        ("origin", {"host": "localhost:8000", "origin": "http://localhost"}),
        ("origin", {"host": "localhost:8000", "origin": "null"}),
        ("origin", {"host": "localhost:8000", "origin": ""}),
        ("origin", {"host": "localhost:8000", "origin": "http://localhost:8000.other.example"}),
        ("origin", {"host": "localhost:8000", "sec_fetch_site": "cross-site"}),
        ("origin", {"host": "localhost:8000", "sec_fetch_site": "same-site"}),
        ("host", {"host": "other.example:8000", "origin": "http://other.example:8000"}),
        ("host", {"host": "other.example:8000", "sec_fetch_site": "same-origin"}),
        ("host", {"host": "other.example:8000"}),
        ("host", {"host": "localhost.other.example"}),
        ("host", {"host": "127.0.0.1.other.example"}),
        ("host", {"host": "[::1].other.example"}),
        ("host", {"host": ""}),
    ],
)
def test_service_of_this_machine_takes_changes_from_its_own_pages_and_programs(
    expected: str, headers: dict[str, str]
) -> None:
    assert check({}, **headers) == expected


@pytest.mark.parametrize(
    ("expected", "settings", "headers"),
    [
        ("passed", {"host": "0.0.0.0"}, {"host": "gpu-box:8000"}),  # tritonclient in a cluster
        ("passed", {"host": "127.0.0.1,::"}, {"host": "gpu-box:8000"}),
        ("host", {"host": "0.0.0.0"}, {"host": "gpu-box:8000", "origin": "http://gpu-box:8000"}),
        ("origin", {"host": "0.0.0.0"}, {"host": "gpu-box:8000", "origin": "http://other.example"}),
        ("host", {"host": "localhost,::1"}, {"host": "gpu-box:8000"}),
        ("passed", {"allowed_hosts": ("gpu-box",)}, {"host": "GPU-box:8000"}),
        ("passed", {"allowed_hosts": ("*",)}, {"host": "gpu-box", "origin": "http://gpu-box"}),
        ("origin", {"allowed_hosts": ("*",)}, {"host": "gpu-box", "origin": "http://other.example"}),
        ("passed", {"cors_origins": ("https://app.example",)}, {"host": "localhost", "origin": "https://app.example"}),
        ("origin", {"cors_origins": ("*",)}, {"host": "localhost", "origin": "https://app.example"}),
        ("passed", {"keys": Path("k"), "cors_origins": ("*",)}, {"host": "x", "origin": "https://app.example"}),
        ("passed", {"keys": Path("k")}, {"host": "models.example"}),
        ("origin", {"keys": Path("k")}, {"host": "models.example", "origin": "https://app.example"}),
    ],
)
def test_settings_allow_other_origins_and_host_names(
    expected: str, settings: dict[str, Any], headers: dict[str, str]
) -> None:
    assert check(settings, **headers) == expected


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v2/models/digits/infer"),
        ("POST", "/v2/repository/index"),
        ("GET", "/v2/models/digits/shadow"),
        ("GET", "/nothing"),
    ],
)
def test_requests_that_change_nothing_pass(method: str, path: str) -> None:
    assert check({}, path, method, host="other.example", origin="http://other.example") == "passed"


@pytest.mark.parametrize("action", ["shadow/start", "shadow/end", "canary/promote"])
def test_rollouts_change_state(action: str) -> None:
    assert check({}, f"/v2/models/digits/{action}", host="localhost", origin="http://other.example") == "origin"


def test_request_over_a_unix_socket_has_any_host() -> None:
    CrossSiteCheck(Settings()).check("POST", UNLOAD, {b"host": b"anything"}, has_address=False)


def test_model_stays_loaded_when_a_page_of_another_site_unloads_it(bundles: BundleWriter, start: StartService) -> None:
    bundles.digits()
    service = start(bundles.root, model_control="explicit")
    assert service.client.post("/v2/repository/models/digits/load").status_code == 200
    foreign = service.client.post(UNLOAD, headers={"Origin": "https://other.example"})
    assert foreign.status_code == 403
    assert "'https://other.example' may not change state" in foreign.json()["error"]
    rebound = service.client.post(UNLOAD, headers={"Host": "other.example", "Origin": "http://other.example"})
    assert rebound.status_code == 403
    assert "NORMFOLD_ALLOWED_HOSTS" in rebound.json()["error"]
    assert service.client.post("/v2/models/digits/infer", json=PICTURE).status_code == 200
    assert service.client.post(UNLOAD).status_code == 200
