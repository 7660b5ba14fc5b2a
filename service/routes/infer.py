"""The OpenAPI description of the infer route; `service.inference.asgi` answers it before the framework sees it."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from normfold.service.routes.examples import INFER, INFERRED, json_body
from normfold.service.routes.paths import add_model_route, answers

_BINARY: dict[str, Any] = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
_BODY = (
    "An infer request of the Open Inference Protocol, with the tensors' bytes behind it if need be. "
    "An empty body is the tensor of no rows, where the header says that there is no JSON."
)
_LENGTH = {"type": "integer", "minimum": 0}
_LENGTH_HEADER: dict[str, Any] = {
    "name": "Inference-Header-Content-Length",
    "in": "header",
    "description": "Bytes of the JSON in front of the tensors; 0: the body is the one input's tensor and nothing else.",
    "schema": _LENGTH,
}


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
        responses=answers(
            "InferAnswer",
            *(404, 504),
            example=INFERRED,
            content=_BINARY,
            headers={_LENGTH_HEADER["name"]: {"description": "Bytes of the JSON in front.", "schema": _LENGTH}},
        ),
        extra={
            **json_body("InferRequest", INFER, _BODY, required=False, content=_BINARY),
            "parameters": [_LENGTH_HEADER],
        },
    )
    return router
