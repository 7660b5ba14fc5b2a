"""The page at /docs: it loads only what the package holds, and that is what swagger-ui-dist publishes."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path

import httpx
import pytest

from normfold.service.web.assets import ASSETS, FOLDER, SWAGGER_UI
from normfold.service.web.docs_page import render_page
from scripts.system_packages import SEARCH_PATH
from tests.support.bundles import BundleWriter
from tests.support.command import Page
from tests.support.service import Service, StartService, openapi_document

FACTS = json.loads((SWAGGER_UI / "swagger-ui-dist.json").read_text())
LICENCES = {"LICENSE", "NOTICE", "swagger-ui-bundle.js.LICENSE.txt"}


def test_files_of_swagger_ui_are_those_that_were_published() -> None:
    found = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in SWAGGER_UI.iterdir()
        if path.name != "swagger-ui-dist.json"
    }

    assert found == FACTS["sha256"]
    assert FACTS.items() >= {"name": "swagger-ui-dist", "license": "Apache-2.0"}.items()
    assert re.fullmatch(r"5\.\d+\.\d+", FACTS["version"])


def test_package_holds_the_licences_and_what_the_page_loads_alone() -> None:
    loaded = {asset.path for asset in ASSETS.values()}

    assert {path.name for path in SWAGGER_UI.iterdir()} == LICENCES | {"swagger-ui-dist.json"} | {
        path.name for path in loaded if path.parent == SWAGGER_UI
    }
    assert {path for path in FOLDER.iterdir() if path.suffix in (".js", ".css")} == loaded - set(SWAGGER_UI.iterdir())
    assert "Apache License" in (SWAGGER_UI / "LICENSE").read_text()


def test_page_loads_nothing_from_another_server(served: Service) -> None:
    response = served.client.get("/docs")

    page = Page(response.text)
    links = [*page.values("href"), *page.values("src")]
    assert not [link for link in links if re.match(r"[a-z]+:|/", link) and link != "data:,"]
    assert {link for link in links if link.startswith("docs/")} == {f"docs/{name}" for name in ASSETS}
    assert "style" not in page.tags
    assert re.findall(r"<script[^>]*>([^<]*)", response.text) == ["", ""]
    assert not re.search(r"\son\w+=|\sstyle=", response.text)
    assert "http" not in (FOLDER / "docs.css").read_text() + (FOLDER / "docs.js").read_text().replace("// the", "")


def test_content_security_policy_allows_the_service_alone(served: Service) -> None:
    headers = served.client.get("/docs").headers

    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    assert policy["default-src"] == policy["base-uri"] == policy["frame-ancestors"] == policy["form-action"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert "unsafe" not in headers["content-security-policy"]
    assert (headers["x-content-type-options"], headers["referrer-policy"]) == ("nosniff", "no-referrer")


def test_page_without_javascript_lists_every_route() -> None:
    document = openapi_document()
    text = render_page(document)
    listed = text[text.index("<noscript>") : text.index("</noscript>")]

    found = re.findall(r"<dt><code>(?:<a href=\"([^\"]*)\">)?([A-Z]+) ([^<]+)(?:</a>)?</code></dt><dd>[A-Z]", listed)

    assert [(method, path) for _, method, path in found] == [
        (method.upper(), path) for path, operations in document["paths"].items() for method in operations
    ]
    linked = {path: link for link, _, path in found if link}
    assert linked["/v2/health/ready"] == "v2/health/ready"
    assert linked["/"] == "."
    assert not [path for path in linked if "{" in path]


def test_text_of_the_document_is_escaped() -> None:
    operation = {"description": "<b>"}
    page = render_page({"info": {"title": "<i>", "version": "&"}, "paths": {"/<u>": {"get": operation}}})

    assert "<b>" not in page
    assert "<i>" not in page
    assert "<u>" not in page
    assert "GET /&lt;u&gt;" in page


@pytest.mark.parametrize("name", ASSETS)
def test_asset_is_sent_once_to_each_browser(served: Service, name: str) -> None:
    first = served.client.get(f"/docs/{name}")
    again = served.client.get(f"/docs/{name}", headers={"If-None-Match": first.headers["etag"]})
    head = served.client.head(f"/docs/{name}")

    assert first.content == ASSETS[name].path.read_bytes()
    assert first.headers["content-type"].startswith("text/css" if name.endswith(".css") else "text/javascript")
    assert (again.status_code, again.content) == (304, b"")
    assert (head.status_code, head.content, head.headers["etag"]) == (200, b"", first.headers["etag"])


@pytest.mark.parametrize("path", ["/docs/", "/docs/LICENSE", "/docs/../docs.js", "/docs/swagger_ui/LICENSE", "/redoc"])
def test_other_files_are_not_sent(served: Service, path: str) -> None:
    url = httpx.URL(served.client.base_url).copy_with(raw_path=path.encode())
    assert served.client.get(url).status_code == 404


@pytest.mark.slow
def test_browser_displays_the_routes_under_its_policy(
    bundles: BundleWriter, start: StartService, tmp_path: Path
) -> None:
    chromium = shutil.which("chromium", path=SEARCH_PATH)
    if chromium is None:
        pytest.skip("no chromium (make system-packages)")
    bundles.digits()
    service = start(bundles.root, root_path="/ml")
    options = [
        *("--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", f"--user-data-dir={tmp_path}"),
        *("--proxy-server=127.0.0.1:9", "--proxy-bypass-list=127.0.0.1"),  # no other server can be reached
        *("--virtual-time-budget=10000", "--dump-dom"),
    ]

    url = f"{service.client.base_url}/ml/docs#/infer/infer_v2_models__model__infer_post"
    done = subprocess.run([chromium, *options, url], capture_output=True, text=True, timeout=120, check=True)

    assert 'data-path="/v2/models/{model}/infer"' in done.stdout
    assert "Run a model on tensors" in done.stdout  # of the operation that the URL opens
    assert '<option value="/ml">' in done.stdout
    assert "Content Security Policy" not in done.stderr
