"""The scope that each route needs, and variants of paths."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.routing import Match

from normfold.service.app import create_app
from normfold.service.auth.authorization import required_scope
from normfold.service.inference.model_ref import match_infer_path
from normfold.service.settings import Settings
from normfold.service.web.page_files import FILES, HASH
from tests.support.service import KeyedService, Service

REQUIRED_SCOPES = {
    "/": "public",
    "/docs": "public",
    **{f"/page/{HASH}/{name}": "public" for name in FILES},
    "/v2/me": "any",
    "/docs/docs.css": "public",
    "/docs/docs.js": "public",
    "/docs/swagger-ui.css": "public",
    "/docs/swagger-ui-bundle.js": "public",
    "/openapi.json": "public",
    "/v2/health/live": "public",
    "/v2/health/ready": "public",
    "/metrics": "metrics",
    "/v2/models/stats": "metrics",
    "/v2/models/{model}/stats": "metrics",
    "/v2/models/{model}/drift": "metrics",
    **{f"/v2/models/{{model}}/{kind}": "metrics" for kind in ("shadow", "canary")},
    **{
        f"/v2/models/{{model}}/{kind}/{action}": "admin"
        for kind in ("shadow", "canary")
        for action in ("start", "end", "promote")
    },
    "/v2/models/{model}/samples": "admin",
    "/v2/models/{model}/versions/{version}/samples": "admin",
    "/v2/models/{model}/versions/{version}/drift": "metrics",
    "/v2/models/{model}/versions/{version}/stats": "metrics",
    "/v2/repository/models/{model}/load": "admin",
    "/v2/repository/models/{model}/unload": "admin",
    "/v2/repository/index": "infer",
    "/v1/models": "infer",
    "/v1/models/{model}": "infer",
    "/v1/models/{model}/versions/{version}": "infer",
    "/v1/models/{model}:predict": "infer",
    "/v1/models/{model}/versions/{version}:predict": "infer",
    "/v1/models/{model}:classify": "infer",
    "/v1/models/{model}/versions/{version}:classify": "infer",
    "/v2": "infer",
    "/v2/": "infer",
    "/v2/models/{model}": "infer",
    "/v2/models/{model}/versions/{version}": "infer",
    "/v2/models/{model}/infer": "infer",
    "/v2/models/{model}/versions/{version}/infer": "infer",
    "/v2/models/{model}/ready": "infer",
    "/v2/models/{model}/versions/{version}/ready": "infer",
    "/v2/models/{model}/config": "infer",
    "/v2/models/{model}/versions/{version}/config": "infer",
}
"""Every route of the app, and what it needs: a second opinion on the table of `service.auth.authorization`."""

APP = create_app(Settings())


def routes(found: Any) -> Iterator[Any]:
    """Yield every route, those of included routers too."""
    for route in found:
        if hasattr(route, "path"):
            yield route
        else:
            yield from routes(route.effective_candidates())


def route_of(path: str) -> str | None:
    """Return the path, with its parameters' names, of the route that the app would take."""
    scope = {"type": "http", "path": path, "root_path": "", "headers": []}
    for route in routes(APP.router.routes):
        for method in ("GET", "POST"):
            if route.matches({**scope, "method": method})[0] is Match.FULL:
                return str(route.path)
    return None


def test_every_route_is_in_the_table_of_scopes() -> None:
    paths = {route.path for route in routes(APP.router.routes)}
    assert paths >= set(APP.openapi()["paths"])  # the walk sees them all
    assert {path: required_scope(path) for path in paths} == REQUIRED_SCOPES


PIECES = (
    *("", "/", "//", "/v1", "/v2", "/V2", "/models", "/models/", "/m", "/stats", "/infer", "/versions", "/1", "/ready"),
    *("/config", "/repository", "/index", "/load", "/unload", "/health", "/live", "/metrics", "/docs", "/docs.js"),
    *(
        "/openapi.json",
        ":predict",
        ":classify",
        ".",
        "..",
        "/..",
        "%2f",
        "\n",
        "\0",
        " ",
        "?",
        ";",
        "é",
        "stats",
        "/health/live",
    ),
)


@given(st.lists(st.sampled_from(PIECES), max_size=8).map("".join))
def test_path_variants_never_reach_a_route_with_another_scope(path: str) -> None:
    need, route = required_scope(path), route_of(path)
    if need is not None:
        assert route is None or REQUIRED_SCOPES[route] == need
        assert route is not None or need != "public"
    matched = match_infer_path(path)
    assert matched is None or need in ("infer", None)


@pytest.mark.parametrize(
    "path",
    [
        *("", "//", "/metrics/", "//metrics", "/metrics\n", "/Metrics", "/v2//", "/v2/models", "/v2/models/", "/docs/"),
        *("/v2/health", "/v2/health/", "/v2/health/live/", "/v2/health/live\n", "/v2/health/../../metrics"),
        *("/docs/oauth2-redirect", "/v2/health/live/../ready", "/v2/repository/models/a/b/load", "/v1/models/"),
        *("/v2/models/a/versions/1/2/infer", "/v1/models/a/explain", "/v2/models//infer", "/v2/models/a/b/stats"),
    ],
)
def test_unknown_path_has_no_scope(path: str) -> None:
    assert required_scope(path) is None


def test_openapi_document_has_a_security_scheme_where_keys_are_needed(keys: KeyedService, served: Service) -> None:
    document = keys.client.get("/openapi.json").json()
    [(name, scheme)] = document["components"]["securitySchemes"].items()
    assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")
    for path, operations in document["paths"].items():
        for operation in operations.values():
            locked = REQUIRED_SCOPES[path] != "public"
            assert operation.get("security") == ([{name: []}] if locked else None)
            assert ("401" in operation["responses"]) is locked
    open_document = served.client.get("/openapi.json").json()
    assert "securitySchemes" not in open_document.get("components", {})
    assert '"401"' not in json.dumps(open_document)
