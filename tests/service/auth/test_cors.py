"""Pages of other origins (CORS)."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.support.bundles import BundleWriter
from tests.support.infer_bodies import PICTURE
from tests.support.service import ALLOWED_ORIGIN, KeyedService, Service, StartService

INFER = "/v2/models/digits/infer"


def preflight(keys: Any, origin: str, method: str = "POST") -> httpx.Response:
    asked = {"Access-Control-Request-Method": method, "Access-Control-Request-Headers": "x-api-key, content-type"}
    answer: httpx.Response = keys.client.options(INFER, headers={"Origin": origin, **asked})
    return answer


def test_page_of_an_allowed_origin_sends_requests_and_reads_responses(keys: KeyedService) -> None:
    asked = preflight(keys, ALLOWED_ORIGIN)  # without a key: browsers send none
    assert asked.status_code == 200
    assert asked.headers["access-control-allow-origin"] == ALLOWED_ORIGIN
    assert "POST" in asked.headers["access-control-allow-methods"]
    assert asked.headers["access-control-allow-headers"] == "x-api-key, content-type"
    output = {"name": "logits", "parameters": {"binary_data": True}}
    answer = keys.ask("infer", "POST", INFER, json=PICTURE | {"outputs": [output]}, headers={"Origin": ALLOWED_ORIGIN})
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == ALLOWED_ORIGIN
    assert "Origin" in answer.headers["vary"]
    exposed = answer.headers["access-control-expose-headers"].split(", ")
    assert set(exposed) == {"X-Request-Id", "Retry-After", "Inference-Header-Content-Length"}
    assert len(answer.content) == int(answer.headers["inference-header-content-length"]) + 12


@pytest.mark.parametrize(
    ("key", "method", "path", "status"),
    [
        (None, "POST", INFER, 401),
        ("metrics", "POST", INFER, 403),
        ("infer", "GET", "/nothing", 404),
        ("infer", "POST", INFER, 400),
    ],
)
def test_page_of_an_allowed_origin_reads_errors(
    keys: KeyedService, key: str | None, method: str, path: str, status: int
) -> None:
    answer = keys.ask(key, method, path, headers={"Origin": ALLOWED_ORIGIN})
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (status, ALLOWED_ORIGIN)
    assert answer.json().keys() == {"error"}


@pytest.mark.parametrize("origin", ["https://other.example", "http://app.example:8443", "https://app.example", "null"])
def test_page_of_another_origin_is_rejected(keys: KeyedService, origin: str) -> None:
    asked = preflight(keys, origin)
    assert asked.status_code == 400
    assert asked.json() == {"error": "Disallowed CORS origin."}
    answer = keys.ask("infer", "POST", INFER, json=PICTURE, headers={"Origin": origin})
    assert "access-control-allow-origin" not in asked.headers.keys() | answer.headers.keys()


def test_request_without_an_origin_gets_no_cors_headers(keys: KeyedService) -> None:
    answer = keys.ask("infer", "POST", INFER, json=PICTURE)
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_wildcard_allows_every_origin(bundles: BundleWriter, start: StartService) -> None:
    bundles.digits()
    service = start(bundles.root, cors_origins=("*",))
    assert preflight(service, "null").headers["access-control-allow-origin"] == "*"
    answer = service.client.post(INFER, json=PICTURE, headers={"Origin": "null"})
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, "*")


def test_cors_is_off_by_default(served: Service) -> None:
    assert preflight(served, ALLOWED_ORIGIN).status_code == 405
    answer = served.client.post(INFER, json=PICTURE, headers={"Origin": ALLOWED_ORIGIN})
    assert answer.status_code == 200
    assert not [name for name in answer.headers if name.startswith("access-control")]
