"""The Open Inference Protocol's infer route: tensors in, tensors out."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from service import wire
from service.http_errors import INFER_ID
from service.repository import Repository
from service.routes.examples import INFER, INFERRED, json_body
from service.routes.paths import add_model_route, find_model
from service.workers import Workers


def infer_routes(repository: Repository, workers: Workers) -> APIRouter:
    """Return the routes that run tensors."""
    router = APIRouter(tags=["infer"])

    async def infer(request: Request) -> Response:
        """Run tensors through a model, as they are: nothing is preprocessed.

        `data` is flat or nested as `shape` says; a number must fit its datatype. Without `outputs` all are answered.
        """
        body = await request.body()  # whatever the Content-Type says: Triton's client sends none
        record = await workers.parse(len(body), wire.parse_object, body)
        identity = wire.read_id(record)
        request.scope[INFER_ID] = identity  # from here on, errors begin with it
        model = find_model(request, repository)
        specs = model.manifest.outputs
        asked = await workers.parse(len(body), wire.decode_request, record, model.manifest.inputs, specs)
        results = await model.infer(asked.tensors, asked.outputs)
        size = sum(array.nbytes for array in results.values())
        answer = await workers.parse(size, wire.encode_response, model.name, model.version, results, specs, identity)
        return Response(answer, media_type="application/json")

    add_model_route(
        router,
        "/v2",
        "/infer",
        infer,
        method="POST",
        errors=(400, 404, 413, 500, 503),
        answer=INFERRED,
        extra=json_body(INFER, "An infer request of the Open Inference Protocol."),
    )
    return router
