"""What the OpenAPI document says of the infer route; `service.infer` answers it, before the framework sees it."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from service.routes.examples import INFER, INFERRED, json_body
from service.routes.paths import add_model_route


def infer_routes() -> APIRouter:
    """Return the routes that run tensors."""
    router = APIRouter(tags=["infer"])

    async def infer(request: Request) -> Response:
        """Run tensors through a model, as they are: nothing is preprocessed.

        `data` is flat or nested as `shape` says; a number must fit its datatype. Without `outputs` all are answered.
        Tensors may also follow the JSON as bytes: its length stands in `Inference-Header-Content-Length` then, and
        `parameters.binary_data_size` at each such input.
        """
        raise AssertionError(f"{request.url.path} is answered before the framework")

    add_model_route(
        router,
        "/v2",
        "/infer",
        infer,
        method="POST",
        errors=(400, 404, 413, 500, 503, 504),
        answer=INFERRED,
        extra=json_body(INFER, "An infer request of the Open Inference Protocol."),
    )
    return router
