"""The routes of the page at /, and what it needs to know of the one who looks at it."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response

from normfold.service.auth.key_file import SCOPES
from normfold.service.observability.request_trace import REQUEST_TRACE_KEY, RequestTrace
from normfold.service.routes.paths import describe_responses, prefix_of
from normfold.service.settings import Settings
from normfold.service.web.index_page import render_index
from normfold.service.web.page_files import FILES, HASH
from normfold.service.web.page_headers import CONTENT_SECURITY_POLICY, HEADERS

_INDEX_HEADERS = {
    **HEADERS,
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Cache-Control": "no-cache",
    "Vary": "Accept",
}
_FILE_HEADERS = {**HEADERS, "Cache-Control": "public, max-age=31536000, immutable"}

_FILES_PATH = f"/page/{HASH}"

_ME = {"key": {"id": "3f9a1c07", "name": "app"}, "scopes": ["infer"], "changes": False}


def index_page(request: Request) -> Response:
    """Return the page."""
    return HTMLResponse(render_index(prefix_of(request)), headers=_INDEX_HEADERS)


def index_routes(settings: Settings) -> APIRouter:
    """Return the routes of the page's files and of `/v2/me`."""
    router = APIRouter()

    @router.get("/v2/me", tags=["health"], response_class=JSONResponse, responses=describe_responses("Me", example=_ME))
    async def me(request: Request) -> JSONResponse:
        """The request's key and its scopes; without keys, every scope. `changes`: whether models are changed from /."""
        trace: RequestTrace = request.scope[REQUEST_TRACE_KEY]
        changes = settings.page_mode == "on" and settings.model_control == "explicit"
        record: dict[str, Any] = {"key": None, "scopes": list(SCOPES), "changes": changes}
        if trace.key is not None:
            record |= {"key": {"id": trace.key.id, "name": trace.key.name}, "scopes": list(trace.key.scopes)}
        return JSONResponse(record)

    if settings.page_mode != "off":
        for name in FILES:
            router.add_api_route(f"{_FILES_PATH}/{name}", _page_file, include_in_schema=False)
    return router


async def _page_file(request: Request) -> Response:
    """A file of the page."""
    path, media_type = FILES[request.scope["path"].removeprefix(f"{_FILES_PATH}/")]
    return FileResponse(path, media_type=media_type, headers=_FILE_HEADERS, stat_result=path.stat())
