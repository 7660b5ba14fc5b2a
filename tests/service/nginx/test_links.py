"""Links, redirects and pages through nginx."""

from __future__ import annotations

import httpx
import pytest

from tests.support.command import Page
from tests.support.infer_bodies import PICTURE
from tests.support.proxy.nginx import ROUTES, Nginx

HTML = {"Accept": "text/html"}


def test_links_of_the_page_of_a_browser_arrive(client: httpx.Client, route: str) -> None:
    response = client.get("/", headers=HTML)

    page = Page(response.text)
    links = [link for link in (*page.values("href"), *page.values("src")) if link != "data:,"]
    assert [link for link in links if link.endswith("docs")]
    for link in links:
        found = client.get(response.url.join(link))
        assert (found.status_code, found.url.path.startswith(f"{ROUTES[route]}/")) == (200, True), link


def test_prefix_without_a_slash_leads_to_the_page(nginx: Nginx) -> None:
    for route in ("prefix stripped", "prefix passed on"):
        page = httpx.get(nginx.url(route), headers=HTML, follow_redirects=True, trust_env=False, verify=False)
        assert (page.status_code, page.url.path) == (200, "/ml/")


def test_document_names_the_server_under_which_requests_arrive(client: httpx.Client, route: str) -> None:
    document = client.get("/openapi.json").json()

    servers = document.get("servers", [{"url": "/"}])
    assert servers == [{"url": ROUTES[route] or "/"}]
    base = client.base_url.copy_with(path=servers[0]["url"].rstrip("/") + "/v2/models/digits/infer")
    assert client.post(base, json=PICTURE).status_code == 200


@pytest.mark.slow
def test_links_of_the_page_arrive(client: httpx.Client) -> None:
    response = client.get("/docs")

    page = Page(response.text)
    links = {link for link in (*page.values("href"), *page.values("src")) if link != "data:,"}
    assert {"openapi.json", "docs/docs.js", "docs/swagger-ui-bundle.js", "docs/swagger-ui.css"} <= links
    for link in links:
        target = response.url.join(link)
        assert (target.host, target.port) == (response.url.host, response.url.port)
        assert client.get(target).status_code == 200, link


@pytest.mark.parametrize("path", ["/v2", "/v2/", "/v2/health/ready", "/v2/models/digits", "/metrics", "/v1/models"])
def test_get_and_head_are_answered_alike(client: httpx.Client, path: str) -> None:
    got, head = client.get(path), client.head(path)

    assert got.status_code == head.status_code == 200
    assert head.headers["content-type"] == got.headers["content-type"]
    assert not head.content


def test_unknown_path_is_404_in_the_form_of_every_error(client: httpx.Client) -> None:
    for path in ("/none", "/ml/ml/none", "/v2/models/none", "/v2/models/none/infer/more"):
        response = client.get(path)
        assert response.status_code == 404
        assert list(response.json()) == ["error"]
