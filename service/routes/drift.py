"""Whether a model's inputs look like those that it was trained on."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from normfold.service.batching.thread_pool import ThreadPool
from normfold.service.drift.monitor import DriftMonitor
from normfold.service.drift.score import LayerDrift
from normfold.service.errors import NoSamplesError
from normfold.service.repository.repository import Repository
from normfold.service.routes.paths import add_model_route, describe_responses, find_model

_EXAMPLE = {
    "model_name": "digits",
    "model_version": "1",
    "watched": True,
    "shifted": False,
    "rows": 1200,
    "rows_not_finite": 0,
    "window_rows": 200,
    "window_fill": 1.0,
    "calibration_rows": 179,
    "layers": [
        {
            "node": "stem.norm",
            "score": 0.00021,
            "threshold": 0.00107,
            "shifted": False,
            "worst_channels": [{"channel": 7, "score": 0.0013, "mean": 0.05, "std": 1.01}],
        }
    ],
    "sampling": {
        "share": 0.005,
        "busy_share": 0.000628,
        "row_ms": 0.5,
        "most_rows_per_hour": 36000,
        "most_windows_per_hour": 180.0,
    },
}


def drift_routes(repository: Repository, workers: ThreadPool) -> APIRouter:
    """Return the route that tells of shifted inputs."""
    router = APIRouter(tags=["statistics"])

    async def model_shift(request: Request) -> JSONResponse:
        """How far a version's recent inputs are from those of its training, layer by layer.

        A score is the Kullback-Leibler divergence from a layer's frozen statistics, in nats, the mean over its
        channels; of a channel, `mean` and `std` are 0 and 1 in normal times. `shifted` is null until the window is
        nearly full, and where the bundle was exported without held-out data, so that it has no thresholds.
        """
        model = find_model(request, repository)
        record: dict[str, Any] = {"model_name": model.name, "model_version": str(model.version)}
        if model.watch is None:
            return JSONResponse(record | {"watched": False, "shifted": None})
        return JSONResponse(record | {"watched": True} | _describe(model.watch))

    async def model_samples(request: Request) -> Response:
        """Recent inputs of a version as an .npz file, for `normfold adapt --samples`; 404 unless they are kept."""
        model = find_model(request, repository)
        if model.watch is None or model.watch.reservoir is None:
            raise NoSamplesError(model.name)
        body = await workers.call(model.watch.reservoir.packed)
        return Response(body, media_type="application/zip")

    content: dict[str, Any] = {"application/zip": {"schema": {"type": "string", "format": "binary"}}}
    of_samples = describe_responses(None, 404, content=content)
    add_model_route(router, "/v2", "/samples", model_samples, method="GET", responses=of_samples)
    responses = describe_responses("DriftScore", 404, example=_EXAMPLE)
    add_model_route(router, "/v2", "/shift", model_shift, method="GET", responses=responses)
    return router


def _describe(watch: DriftMonitor) -> dict[str, Any]:
    shift, monitor = watch.shift(), watch.monitor
    rows = 3600 * watch.share / watch.row_seconds if watch.row_seconds else None
    return {
        "shifted": shift.shifted,
        "rows": shift.rows,
        "rows_not_finite": shift.rows_not_finite,
        "window_rows": monitor.window_rows,
        "window_fill": round(min(1.0, shift.fill), 4),
        "calibration_rows": monitor.calibration_rows,
        "layers": [_describe_layer(layer) for layer in shift.layers],
        "sampling": {
            "share": watch.share,
            "busy_share": round(watch.busy_share, 6),
            "row_ms": round(1000 * watch.row_seconds, 4),
            "most_rows_per_hour": None if rows is None else int(rows),
            "most_windows_per_hour": None if rows is None else round(rows / monitor.window_rows, 1),
        },
    }


def _describe_layer(layer: LayerDrift) -> dict[str, Any]:
    return {
        "node": layer.node,
        "score": layer.score,
        "threshold": layer.threshold,
        "shifted": layer.shifted,
        "worst_channels": [
            {"channel": one.channel, "score": one.score, "mean": one.mean, "std": one.std} for one in layer.worst
        ],
    }
