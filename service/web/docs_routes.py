"""The routes of the OpenAPI document and of its page; they load nothing from another server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response

from normfold.service.routes.paths import prefix_of
from normfold.service.web.assets import ASSETS
from normfold.service.web.docs_page import render_page
from normfold.service.web.page_headers import CONTENT_SECURITY_POLICY, HEADERS

_ASSET_HEADERS = {**HEADERS, "Cache-Control": "no-cache"}  # a browser asks with the ETag whether its copy is current


def page_routes(document: Callable[[], dict[str, Any]]) -> APIRouter:
    """Return the routes.

    Args:
        document: returns the OpenAPI document of all routes, without `servers`.
    """
    router = APIRouter(include_in_schema=False)

    @router.get("/openapi.json")
    async def openapi_document(request: Request) -> JSONResponse:
        """The OpenAPI document; behind a proxy with a prefix, the prefix is its server."""
        prefix = prefix_of(request)
        servers = {"servers": [{"url": prefix}]} if prefix else {}
        return JSONResponse({**document(), **servers})

    @router.get("/docs")
    async def page(_: Request) -> HTMLResponse:
        """The page of the OpenAPI document."""
        headers = {**HEADERS, "Content-Security-Policy": CONTENT_SECURITY_POLICY}
        return HTMLResponse(render_page(document()), headers=headers)

    for name in ASSETS:
        router.add_api_route(f"/docs/{name}", _asset)
    return router


async def _asset(request: Request) -> Response:
    """A file of the page."""
    path, media_type = ASSETS[request.scope["path"].rpartition("/")[2]]
    response = FileResponse(path, media_type=media_type, headers=_ASSET_HEADERS, stat_result=path.stat())
    etag = response.headers["etag"]
    if request.headers.get("if-none-match") == etag:
        return Response(status_code=304, headers={**_ASSET_HEADERS, "ETag": etag})
    return response
