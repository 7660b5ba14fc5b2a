"""The OpenAPI description of the infer route; `service.inference` serves it before the framework sees a request."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from normfold.service.routes.examples import INFER_REQUEST, INFER_RESPONSE, json_body
from normfold.service.routes.paths import add_model_route, describe_responses

_BINARY: dict[str, Any] = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
_BODY = (
    "An infer request of the Open Inference Protocol, followed by the bytes of its binary tensors. "
    "With a JSON length of 0, an empty body is the tensor with no rows."
)
_LENGTH = {"type": "integer", "minimum": 0}
_JSON_LENGTH_HEADER: dict[str, Any] = {
    "name": "Inference-Header-Content-Length",
    "in": "header",
    "description": "Bytes of the JSON before the binary tensors; 0: the body is the tensor of the only input.",
    "schema": _LENGTH,
}


def infer_routes() -> APIRouter:
    """Return the route of infer requests."""
    router = APIRouter(tags=["infer"])

    async def infer(request: Request) -> Response:
        """Run a model on tensors, without preprocessing.

        `data` is flat, or nested as `shape` specifies; a number must fit its datatype. Without `outputs` all outputs
        are returned. Tensors may also follow the JSON as bytes. `Inference-Header-Content-Length` is then the length of
        the JSON, and `parameters.binary_data_size` of each such input is its size.
        """
        raise AssertionError(f"{request.url.path} is served before the framework")

    add_model_route(
        router,
        "/v2",
        "/infer",
        infer,
        method="POST",
        responses=describe_responses(
            "InferResponse",
            *(404, 415, 422, 504),
            example=INFER_RESPONSE,
            content=_BINARY,
            headers={
                _JSON_LENGTH_HEADER["name"]: {"description": "Bytes of the JSON before the tensors.", "schema": _LENGTH}
            },
        ),
        extra={
            **json_body("InferRequest", INFER_REQUEST, _BODY, required=False, content=_BINARY),
            "parameters": [_JSON_LENGTH_HEADER],
        },
    )
    return router
