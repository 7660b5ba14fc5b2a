"""The two plain routes, which take raw inputs and preprocess them as the manifest's card says."""

from __future__ import annotations

from time import perf_counter
from typing import Any

import orjson
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from normfold.service.batching.thread_pool import ThreadPool
from normfold.service.codec.compression import decompress
from normfold.service.codec.request import parse_object
from normfold.service.errors import RequestError
from normfold.service.http.asgi_cycle import CYCLE
from normfold.service.inference.predict import predict, rank_classes, read_instances, read_picture
from normfold.service.observability.request_trace import REQUEST_TRACE_KEY, RequestTrace
from normfold.service.repository.loaded_model import Model
from normfold.service.repository.repository import Repository
from normfold.service.routes.examples import CLASSIFIED, PREDICT, PREDICTED, json_body, picture_body
from normfold.service.routes.paths import add_model_route, answers, find_model
from normfold.service.settings import Settings

_TOP = 5
_TOP_PARAMETER = {
    "name": "top",
    "in": "query",
    "description": "How many classes to answer.",
    "schema": {"type": "integer", "minimum": 1, "default": _TOP},
}


def predict_routes(repository: Repository, workers: ThreadPool, settings: Settings) -> APIRouter:
    """Return the routes that take raw inputs."""
    router = APIRouter(tags=["predict"])

    async def read(request: Request) -> memoryview:
        """Return a request's body, decompressed."""
        body, encoding = memoryview(await request.body()), request.headers.get("content-encoding")
        if encoding is None:
            return body
        return await workers.parse(4 * len(body), decompress, body, encoding.encode(), settings.max_body_bytes)

    async def predict_instances(request: Request) -> Response:
        """Predict from raw inputs: pictures as nested lists of pixels, rows as lists or objects by column.

        A model with labels answers each instance's label and probabilities, in the order of the labels, or, where it
        gives a class to each pixel, a mask of their numbers; another answers its outputs' values. A model without
        preprocessing takes tensors, those with several inputs as objects by name.
        """
        phases: RequestTrace = request.scope[REQUEST_TRACE_KEY]
        with _find(request, repository) as model:
            body = await read(request)
            phases.received = perf_counter()
            record = await workers.parse(len(body), parse_object, body)
            instances = await workers.parse(len(body), read_instances, record, model.manifest)
            phases.decoded = perf_counter()
            predictions = await predict(model, instances, phases, request.scope.get(CYCLE))
        answer = await workers.call(_encode, predictions)
        phases.encoded = perf_counter()
        return Response(answer, media_type="application/json")

    async def classify_picture(request: Request) -> Response:
        """Classify a PNG or JPEG of any size: the most probable classes, highest first.

        EXIF rotation is applied; palettes, 16-bit grey and transparency are understood. The bytes decide, not the
        Content-Type.
        """
        with _find(request, repository) as model:
            top = _read_top(request.query_params.get("top"))
            if request.headers.get("content-type", "").startswith("multipart/"):
                raise RequestError("The body is a form; send the bytes of the PNG or JPEG file alone.")
            data = bytes(await read(request))
            phases: RequestTrace = request.scope[REQUEST_TRACE_KEY]
            phases.received = perf_counter()
            instances = await workers.call(read_picture, data, model, settings.max_image_pixels)
            phases.decoded = perf_counter()
            [prediction] = await predict(model, instances, phases, request.scope.get(CYCLE))
        classes = rank_classes(prediction, model.manifest.card.labels or (), top)
        answer = {"model_name": model.name, "model_version": str(model.version), "classes": classes}
        response = JSONResponse(answer)
        phases.encoded = perf_counter()
        return response

    add_model_route(
        router,
        "/v1",
        ":predict",
        predict_instances,
        method="POST",
        responses=answers("PredictAnswer", 404, 504, example=PREDICTED),
        extra=json_body("PredictRequest", PREDICT, "Raw inputs; here one picture of 8 × 8 pixels, of 0 to 16."),
    )
    add_model_route(
        router,
        "/v1",
        ":classify",
        classify_picture,
        method="POST",
        responses=answers("ClassifyAnswer", 404, 504, example=CLASSIFIED),
        extra={**picture_body(), "parameters": [_TOP_PARAMETER]},
    )
    return router


def _find(request: Request, repository: Repository) -> Model:
    """Return the model, if it has room, and count the request as its."""
    model = find_model(request, repository)
    phases: RequestTrace = request.scope[REQUEST_TRACE_KEY]
    phases.model, phases.version = model.name, model.version
    model.batcher.refuse_if_full()
    return model


def _read_top(text: str | None) -> int:
    if text is None:
        return _TOP
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and int(text) > 0):
        raise RequestError(f"The query parameter 'top' is {text[:40]!r}; it takes a positive integer.")
    return int(text)


def _encode(predictions: list[Any]) -> bytes:
    return orjson.dumps({"predictions": predictions}, option=orjson.OPT_SERIALIZE_NUMPY)
