"""Which web pages of other origins may ask: Starlette's middleware, around everything that answers."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from normfold.service.error_responses import error_response
from normfold.service.http.connection import THROUGH_ASGI

EXPOSED = ("X-Request-Id", "Retry-After", "Inference-Header-Content-Length")
"""Headers of answers that a page may read, beside those that it always may."""


class Cors(CORSMiddleware):
    """Starlette's, but answers go through it, and its own refusals are in our form.

    Keys travel in headers that a page sets itself, so credentials, which browsers send on their own, are not allowed,
    and any header is.
    """

    def __init__(self, app: ASGIApp, origins: tuple[str, ...]) -> None:
        super().__init__(
            app,
            allow_origins=origins,
            allow_methods=("GET", "POST"),
            allow_headers=("*",),
            expose_headers=EXPOSED,
        )

    async def simple_response(self, scope: Scope, receive: Receive, send: Send, request_headers: Headers) -> None:
        """Let the request be answered; this middleware puts its headers into the ASGI message."""
        if "origin" in request_headers:
            scope[THROUGH_ASGI] = True
        await super().simple_response(scope, receive, send, request_headers)

    def preflight_response(self, request_headers: Headers) -> Response:
        """Answer a browser that asks whether its page may ask."""
        response = super().preflight_response(request_headers)
        if response.status_code == 200:
            return response
        kept = {name: value for name, value in response.headers.items() if not name.startswith("content-")}
        return error_response(f"{bytes(response.body).decode()}.", response.status_code, kept)
