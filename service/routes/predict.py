"""The routes that take raw inputs and preprocess them as in training: predict and classify."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from time import perf_counter
from typing import Any

import orjson
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from normfold.service.batching.thread_pool import ThreadPool
from normfold.service.codec.request import parse_object
from normfold.service.codec.table_rows import RowNotes
from normfold.service.errors import RequestError
from normfold.service.http.asgi_cycle import CYCLE
from normfold.service.http.body import read_plain_body
from normfold.service.inference.model_ref import ModelRef
from normfold.service.inference.observers import AnswerObservers
from normfold.service.inference.predict import Run, predict, rank_classes, read_image, read_instances
from normfold.service.inference.steps import admit, choose_version
from normfold.service.observability.request_trace import REQUEST_TRACE_KEY, RequestTrace
from normfold.service.repository.loaded_model import Model
from normfold.service.repository.repository import Repository
from normfold.service.routes.examples import CLASSIFY_RESPONSE, PREDICT_REQUEST, PREDICT_RESPONSE, image_body, json_body
from normfold.service.routes.paths import add_model_route, describe_responses
from normfold.service.settings import Settings

_DEFAULT_TOP = 5
_TOP_PARAMETER = {
    "name": "top",
    "in": "query",
    "description": "How many classes to return.",
    "schema": {"type": "integer", "minimum": 1, "default": _DEFAULT_TOP},
}


def predict_routes(
    repository: Repository, thread_pool: ThreadPool, settings: Settings, observers: AnswerObservers
) -> APIRouter:
    """Return the routes that take raw inputs.

    Args:
        repository: finds models.
        thread_pool: decodes and encodes.
        settings: limits on bodies and images.
        observers: see the answers.
    """
    router = APIRouter(tags=["predict"])

    async def predict_instances(request: Request) -> Response:
        """Predict from raw inputs: images as nested lists of pixels, rows as lists or as objects by column.

        A model with labels returns the label and the probabilities of each instance, in the order of the labels; one
        whose labels do not exclude each other returns those from its threshold on; one that classifies pixels returns
        a mask of class indices; a regression returns values with their names and units; any other returns the values
        of its outputs. A model without preprocessing takes tensors; with several inputs, as objects by input.

        A table's row may have texts, numbers, true and false, null, and leave out columns; `row` of GET /v1/models
        lists its columns. `notes` of the answer names values that the network knows nothing about.
        """
        trace: RequestTrace = request.scope[REQUEST_TRACE_KEY]
        with _admit(request, repository, observers) as model:
            body = await read_plain_body(request, thread_pool, settings.max_body_bytes)
            trace.received = perf_counter()
            record = await thread_pool.parse(len(body), parse_object, body)
            notes = RowNotes()
            instances = await thread_pool.parse(len(body), read_instances, record, model.manifest, notes)
            trace.decoded = perf_counter()
            predictions = await predict(
                model, instances, trace, request.scope.get(CYCLE), partial(_observe, observers, request, model)
            )
            model.stats.observe_columns(notes.found)
        encoded = await thread_pool.call(_encode, predictions, notes)
        trace.encoded = perf_counter()
        return Response(encoded, media_type="application/json")

    async def classify_image(request: Request) -> Response:
        """Classify a PNG or JPEG image of any size: the most probable classes, in descending order.

        EXIF rotation is applied; palettes, 16-bit grey and transparency are supported. The format follows from the
        bytes, not from the Content-Type.
        """
        with _admit(request, repository, observers) as model:
            top = _read_top(request.query_params.get("top"))
            if request.headers.get("content-type", "").startswith("multipart/"):
                raise RequestError("The body is a form; send the bytes of the PNG or JPEG file alone.")
            data = bytes(await read_plain_body(request, thread_pool, settings.max_body_bytes))
            trace: RequestTrace = request.scope[REQUEST_TRACE_KEY]
            trace.received = perf_counter()
            instances = await thread_pool.call(read_image, data, model, settings.max_image_pixels)
            trace.decoded = perf_counter()
            [prediction] = await predict(
                model, instances, trace, request.scope.get(CYCLE), partial(_observe, observers, request, model)
            )
        classes = rank_classes(prediction, model.manifest.card.labels or (), top)
        record = {"model_name": model.name, "model_version": str(model.version), "classes": classes}
        response = JSONResponse(record)
        trace.encoded = perf_counter()
        return response

    add_model_route(
        router,
        "/v1",
        ":predict",
        predict_instances,
        method="POST",
        responses=describe_responses("PredictResponse", 404, 415, 422, 504, example=PREDICT_RESPONSE),
        extra=json_body("PredictRequest", PREDICT_REQUEST, "Raw inputs; here one image of 8 × 8 pixels from 0 to 16."),
    )
    add_model_route(
        router,
        "/v1",
        ":classify",
        classify_image,
        method="POST",
        responses=describe_responses("ClassifyResponse", 404, 415, 422, 504, example=CLASSIFY_RESPONSE),
        extra={**image_body(), "parameters": [_TOP_PARAMETER]},
    )
    return router


def _admit(request: Request, repository: Repository, observers: AnswerObservers) -> Model:
    """Return the model that the path names, if its queue is not full, or its canary."""
    reference = ModelRef(request.path_params["model"], request.path_params.get("version"))
    trace: RequestTrace = request.scope[REQUEST_TRACE_KEY]
    model = admit(repository, reference, trace)
    if observers.rollouts.by_model and reference.version is None:
        return choose_version(observers.rollouts, model, trace)
    return model


def _observe(observers: AnswerObservers, request: Request, model: Model, runs: Sequence[Run]) -> None:
    """Bring the runs of a request to those that observe answers."""
    if observers.payload_log is None and not observers.rollouts.by_model:
        return
    trace: RequestTrace = request.scope[REQUEST_TRACE_KEY]
    for index, (tensors, results) in enumerate(runs):
        observers.answered(
            trace,
            model,
            tensors,
            results,
            names_version="version" in request.path_params,
            part=index if len(runs) > 1 else None,
            parts=len(runs),
        )


def _read_top(text: str | None) -> int:
    if text is None:
        return _DEFAULT_TOP
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and int(text) > 0):
        raise RequestError(f"The query parameter 'top' is {text[:40]!r}; it takes a positive integer.")
    return int(text)


def _encode(predictions: list[Any], notes: RowNotes) -> bytes:
    return orjson.dumps(notes.add_to({"predictions": predictions}), option=orjson.OPT_SERIALIZE_NUMPY)
