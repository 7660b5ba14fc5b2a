"""CORS: Starlette's middleware around the whole application, with errors in our form."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from normfold.service.error_responses import error_response
from normfold.service.http.asgi_cycle import THROUGH_ASGI

EXPOSED_HEADERS = ("X-Request-Id", "Retry-After", "Inference-Header-Content-Length")
"""Headers of responses that a page may read, besides the CORS-safelisted ones."""


class Cors(CORSMiddleware):
    """Starlette's CORS middleware.

    A page sends its key in a header that it sets itself. So credentials, which browsers send on their own, are not
    allowed, and every request header is.

    Args:
        app: the application.
        origins: the setting cors_origins.
    """

    def __init__(self, app: ASGIApp, origins: tuple[str, ...]) -> None:
        super().__init__(
            app,
            allow_origins=origins,
            allow_methods=("GET", "POST"),
            allow_headers=("*",),
            expose_headers=EXPOSED_HEADERS,
        )

    async def simple_response(self, scope: Scope, receive: Receive, send: Send, request_headers: Headers) -> None:
        """Serve a request; the middleware adds its headers to ASGI's messages, so the response must pass through."""
        if "origin" in request_headers:
            scope[THROUGH_ASGI] = True
        await super().simple_response(scope, receive, send, request_headers)

    def preflight_response(self, request_headers: Headers) -> Response:
        """Answer a preflight request."""
        response = super().preflight_response(request_headers)
        if response.status_code == 200:
            return response
        headers = {name: value for name, value in response.headers.items() if not name.startswith("content-")}
        return error_response(f"{bytes(response.body).decode()}.", response.status_code, headers)
