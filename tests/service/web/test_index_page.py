"""The page at /: its files, its settings, and the key of the one who looks at it."""

from __future__ import annotations

import gzip
import hashlib
import json
import re

import pytest

from normfold.service.settings import Settings
from normfold.service.web.page_files import FILES, HASH, PAGE
from tests.support.bundles import BundleWriter
from tests.support.command import Page
from tests.support.service import Service, StartService

BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
VENDORED = json.loads((PAGE / "vendor" / "vendored.json").read_text())


def test_page_is_under_60_kb_compressed() -> None:
    assert sum(len(gzip.compress(asset.path.read_bytes())) for asset in FILES.values()) <= 60_000


def test_vendored_files_are_those_that_were_published() -> None:
    found = {name.removeprefix("vendor/") for name in FILES if name.startswith("vendor/")}
    assert found == VENDORED.keys()
    for name, facts in VENDORED.items():
        assert hashlib.sha256((PAGE / "vendor" / name).read_bytes()).hexdigest() == facts["sha256"]
        assert facts.keys() == {"package", "version", "file", "license", "sha256"}
    assert "Apache License" in (PAGE / "vendor" / "htm.LICENSE").read_text()
    assert "MIT" in (PAGE / "vendor" / "preact.LICENSE").read_text()


def test_modules_name_no_other_server_and_put_no_text_in_as_html() -> None:
    own = {name: asset.path.read_text() for name, asset in FILES.items() if not name.startswith("vendor/")}
    for name, text in own.items():
        assert not re.search(r"https?://|innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", text), name


def test_modules_import_files_of_the_page_alone() -> None:
    for name, asset in FILES.items():
        if name.endswith(".js") and not name.startswith("vendor/"):
            for target in re.findall(r'from "([^"]+)"', asset.path.read_text()):
                assert (asset.path.parent / target).resolve().relative_to(PAGE.resolve()).as_posix() in FILES


def test_browser_gets_the_page_and_a_program_does_not(served: Service) -> None:
    page = served.client.get("/", headers=BROWSER)
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.headers["vary"] == "Accept"
    policy = dict(part.split(" ", 1) for part in page.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == policy["base-uri"] == policy["frame-ancestors"] == policy["form-action"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert served.client.get("/", headers={"Accept": "*/*"}).json() == {"status": "alive"}


def test_links_of_the_page_lead_to_its_files_and_routes(served: Service) -> None:
    page = Page(served.client.get("/", headers=BROWSER).text)
    links = [link for link in [*page.values("href"), *page.values("src")] if link != "data:,"]
    assert len(links) >= 5
    for link in links:
        assert served.client.get(f"/{link}").status_code == 200, link


def test_links_of_the_page_have_the_prefix_of_a_proxy(bundles: BundleWriter, start: StartService) -> None:
    bundles.digits()
    service = start(bundles.root, root_path="/ml")
    page = Page(service.client.get("/ml/", headers=BROWSER).text)
    links = [link for link in [*page.values("href"), *page.values("src")] if link != "data:,"]
    assert all(link.startswith("/ml/") for link in links)
    assert service.client.get(f"/ml/page/{HASH}/app.js").status_code == 200


@pytest.mark.parametrize("name", FILES)
def test_file_of_the_page_may_be_kept_for_ever(served: Service, name: str) -> None:
    response = served.client.get(f"/page/{HASH}/{name}")
    assert response.content == FILES[name].path.read_bytes()
    assert response.headers["content-type"].startswith("text/css" if name.endswith(".css") else "text/javascript")
    assert "immutable" in response.headers["cache-control"]
    assert response.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "path", [f"{'0' * 16}/app.js", f"{HASH}/other.js", f"{HASH}/vendor/vendored.json", f"{HASH}/../docs.js", HASH]
)
def test_other_files_are_not_sent(served: Service, path: str) -> None:
    assert served.client.get(f"/page/{path}").status_code == 404


def test_page_that_is_off_leads_to_the_routes(bundles: BundleWriter, start: StartService) -> None:
    bundles.digits()
    service = start(bundles.root, page="off")
    assert service.client.get("/", headers=BROWSER).headers["location"] == "/docs"
    assert service.client.get(f"/page/{HASH}/app.js").status_code == 404


@pytest.mark.parametrize(
    ("host", "page", "mode"),
    [
        ("127.0.0.1", None, "on"),
        ("localhost,::1", None, "on"),
        ("0.0.0.0", None, "read"),
        ("127.0.0.1,10.0.0.5", None, "read"),
        ("0.0.0.0", "on", "on"),
        ("127.0.0.1", "off", "off"),
    ],
)
def test_page_changes_models_only_at_loopback_addresses_unless_asked(host: str, page: str | None, mode: str) -> None:
    assert Settings(host=host, page=page).page_mode == mode  # type: ignore[arg-type]


def test_me_has_every_scope_without_keys(bundles: BundleWriter, start: StartService) -> None:
    bundles.digits()
    expected = {"key": None, "scopes": ["infer", "admin", "metrics"], "changes": False}
    assert start(bundles.root).client.get("/v2/me").json() == expected
    explicit = start(bundles.root, model_control="explicit", wait=False)
    assert explicit.client.get("/v2/me").json() == expected | {"changes": True}
