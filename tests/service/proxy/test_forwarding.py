"""Prefixes and headers of proxies, as a running service takes them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from normfold.service.app import create_app
from normfold.service.auth.key_admin import create_key
from normfold.service.proxy.forwarding import Forwarding
from normfold.service.proxy.trusted_addresses import TrustedAddresses
from normfold.service.settings import Settings
from tests.support.bundles import BundleWriter
from tests.support.infer_bodies import PICTURE
from tests.support.service import LogRecords, Service, StartService
from tests.support.waiting import wait_for, wait_until_ready

pytestmark = pytest.mark.slow

INFER = "/v2/models/digits/infer"
HTML = {"Accept": "text/html"}


def location(service: Service, path: str = "/", **headers: str) -> str:
    """Return where the page that a browser gets links to; empty without a page."""
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return link_to_docs(service.client.get(path, headers=HTML | sent).text)


def link_to_docs(page: str) -> str:
    """Return the link to the routes, seen from the root; empty without one."""
    found = re.search(r'href="([^"]*docs)"', page)
    return f"/{found[1].removeprefix('/')}" if found else ""


@pytest.fixture
def trusting(bundles: BundleWriter, start: StartService) -> Service:
    bundles.digits()
    return start(bundles.root, proxy_headers=True)


def test_root_path_is_taken_off_and_put_before_links(
    bundles: BundleWriter, start: StartService, fast_path_urls: list[bytes]
) -> None:
    bundles.digits()
    service = start(bundles.root, root_path="/ml/x")

    for prefix in ("", "/ml/x"):
        assert service.client.post(prefix + INFER, json=PICTURE).status_code == 200
        assert service.client.get(prefix + "/v2/models/digits").json()["name"] == "digits"
        assert location(service, prefix + "/") == "/ml/x/docs"
        assert service.client.get(prefix + "/openapi.json").json()["servers"] == [{"url": "/ml/x"}]
    assert location(service, "/ml/x") == "/ml/x/docs"
    assert len(fast_path_urls) == 2
    for path in ("/ml", "/ml/xx/v2", "/ml/x/ml/x/v2", "/ml/x//v2"):
        assert service.client.get(path).status_code == 404
    assert service.client.post("/ml/x/ml/x" + INFER, json=PICTURE).status_code == 404
    assert location(service, X_Forwarded_Prefix="/other") == "/ml/x/docs"  # without proxy_headers


def test_forwarded_prefix_of_a_trusted_proxy_is_used(trusting: Service, fast_path_urls: list[bytes]) -> None:
    headers = {"X-Forwarded-Prefix": "/ml/"}

    assert location(trusting) == "/docs"
    assert location(trusting, **headers) == "/ml/docs"
    assert trusting.client.get("/openapi.json", headers=headers).json()["servers"] == [{"url": "/ml"}]
    assert "servers" not in trusting.client.get("/openapi.json").json()
    for path in (INFER, "/ml" + INFER):
        assert trusting.client.post(path, json=PICTURE, headers=headers).status_code == 200
    assert len(fast_path_urls) == 2
    assert trusting.client.post("/ml" + INFER, json=PICTURE).status_code == 404


def test_wrong_forwarded_prefix_is_ignored_and_logged_once(trusting: Service, lines: LogRecords) -> None:
    wrong = ("//evil.example", "https://evil.example", "/a/..", "/ml, /x", "ml", "/%2f", "/\\evil.example")

    for prefix in wrong:
        assert location(trusting, X_Forwarded_Prefix=prefix) == "/docs"
        header = {"X-Forwarded-Prefix": prefix}
        assert trusting.client.post(INFER, json=PICTURE, headers=header).status_code == 200
    twice = [("Accept", "text/html"), ("X-Forwarded-Prefix", "/a"), ("X-Forwarded-Prefix", "/b")]
    assert link_to_docs(trusting.client.get("/", headers=twice).text) == "/docs"

    [line] = [line for line in lines.formatted if "X-Forwarded-Prefix" in line["message"]]
    assert "'//evil.example' is not a path like /ml" in line["message"]


def test_headers_of_another_address_are_ignored(bundles: BundleWriter, start: StartService) -> None:
    bundles.digits()
    service = start(bundles.root, proxy_headers=True, forwarded_allow_ips="10.0.0.0/8,::1")

    assert location(service, X_Forwarded_Prefix="/ml") == "/docs"


def test_prefix_that_is_like_a_route_leaves_routes_as_they_are(trusting: Service) -> None:
    for prefix in ("/v1", "/v2", "/v2/models", "/docs"):
        headers = {"X-Forwarded-Prefix": prefix}
        for path in (INFER, prefix + INFER):
            assert trusting.client.post(path, json=PICTURE, headers=headers).status_code == 200
        assert "models" in trusting.client.get("/v1/models", headers=headers).json()
        assert location(trusting, **headers) == f"{prefix}/docs"


def test_keys_are_checked_for_the_path_behind_the_prefix(
    bundles: BundleWriter, start: StartService, tmp_path: Path
) -> None:
    bundles.digits()
    sent = create_key(tmp_path / "keys.json", "ci", ["infer"])[1]
    service = start(bundles.root, wait=False, keys=tmp_path / "keys.json", proxy_headers=True)
    wait_until_ready(service.client)
    anyone = {"X-Forwarded-Prefix": "/ml"}
    holder = anyone | {"Authorization": f"Bearer {sent}"}

    def status(method: str, path: str, headers: dict[str, str]) -> int:
        return service.client.request(method, path, headers=headers, json=PICTURE).status_code

    for prefix in ("", "/ml"):
        assert status("POST", prefix + INFER, holder) == 200
        assert status("POST", prefix + INFER, anyone) == 401
        assert status("GET", prefix + "/metrics", holder) == 403
        assert status("POST", prefix + "/v2/repository/models/digits/load", holder) == 403
        assert status("GET", prefix + "/docs", anyone) == 200
    assert status("GET", "/ml/docs", {}) == 401
    assert status("GET", "/x/metrics", holder) == 404


@pytest.mark.slow
@pytest.mark.parametrize("padding", ["", " " * 40_000], ids=["fast path", "ASGI"])
def test_access_log_has_the_client_and_the_path_without_the_prefix(
    bundles: BundleWriter, start: StartService, tmp_path: Path, padding: str
) -> None:
    bundles.digits()
    log = tmp_path / "access.log"
    service = start(bundles.root, proxy_headers=True, root_path="/ml", access_log=log)
    cases = {
        "203.0.113.7": "203.0.113.7",
        "1.2.3.4, 203.0.113.7": "203.0.113.7",  # what a client wrote stands first
        "203.0.113.7, 127.0.0.1": "203.0.113.7",
        "127.0.0.1": "127.0.0.1",
        "203.0.113.7, nonsense": "127.0.0.1",
        "[2001:db8::1]:443": "2001:db8::1",
        "": "127.0.0.1",
    }

    for number, forwarded in enumerate(cases):
        headers = {"X-Request-Id": f"r{number}", "X-Forwarded-For": forwarded}
        sent = json.dumps(PICTURE) + padding
        assert service.client.post("/ml" + INFER, content=sent, headers=headers).status_code == 200

    wait_for(lambda: log.read_text().count("/infer") == len(cases))
    lines: dict[str, Any] = {line["request_id"]: line for line in map(json.loads, log.read_text().splitlines())}
    assert [lines[f"r{number}"]["client"] for number in range(len(cases))] == list(cases.values())
    assert {lines[f"r{number}"]["path"] for number in range(len(cases))} == {INFER}


@pytest.mark.slow
def test_access_log_has_no_client_without_proxy_headers(
    bundles: BundleWriter, start: StartService, tmp_path: Path
) -> None:
    bundles.digits()
    log = tmp_path / "access.log"
    service = start(bundles.root, access_log=log)
    service.client.post(INFER, json=PICTURE, headers={"X-Forwarded-For": "203.0.113.7"})
    wait_for(lambda: "/infer" in log.read_text())
    assert "client" not in log.read_text()


def test_mounted_application_answers_under_its_mount(tmp_path: Path) -> None:
    outer = FastAPI()
    outer.mount("/ml", create_app(Settings(repository=tmp_path, provider="cpu")))
    client = TestClient(outer, follow_redirects=False)

    assert client.get("/ml/v2/health/live").json() == {"live": True}
    assert link_to_docs(client.get("/ml/", headers=HTML).text) == "/ml/docs"
    assert client.get("/ml/openapi.json").json()["servers"] == [{"url": "/ml"}]


def test_scheme_is_that_of_the_trusted_proxy() -> None:
    forwarding = Forwarding("", TrustedAddresses(("127.0.0.1",)), lambda _: False)
    scope = {"type": "http", "path": "/v2", "scheme": "http", "client": ("127.0.0.1", 1)}
    for sent, scheme in ((b"https", "https"), (b"HTTPS", "https"), (b"http", "http"), (b"javascript", "http")):
        assert forwarding.adapt({**scope, "headers": [(b"x-forwarded-proto", sent)]})["scheme"] == scheme
    untrusted = {**scope, "client": ("127.0.0.2", 1), "headers": [(b"x-forwarded-proto", b"https")]}
    assert forwarding.adapt(untrusted)["scheme"] == "http"


def test_client_is_that_of_x_real_ip_without_x_forwarded_for() -> None:
    forwarding = Forwarding("", TrustedAddresses(("127.0.0.1",)), lambda _: False)
    assert forwarding.client({b"x-real-ip": b"203.0.113.7"}, "127.0.0.1") == "203.0.113.7"
    assert forwarding.client({b"x-real-ip": b"203.0.113.7"}, "127.0.0.2") == "127.0.0.2"
