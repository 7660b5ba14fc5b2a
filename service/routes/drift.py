"""Drift of a model's inputs, and the recent inputs that were kept for `normfold adapt`."""

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
    "monitored": True,
    "drifted": False,
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
            "drifted": False,
            "worst_channels": [{"channel": 7, "score": 0.0013, "mean": 0.05, "std": 1.01}],
        }
    ],
    "sampling": {
        "share": 0.005,
        "busy_share": 0.000628,
        "row_ms": 0.5,
        "max_rows_per_hour": 36000,
        "max_windows_per_hour": 180.0,
    },
}


def drift_routes(repository: Repository, thread_pool: ThreadPool) -> APIRouter:
    """Return the routes of drift monitoring."""
    router = APIRouter(tags=["statistics"])

    async def model_drift(request: Request) -> JSONResponse:
        """Drift of a version's recent inputs from those of its training, layer by layer.

        A score is the Kullback-Leibler divergence from a layer's frozen statistics, in nats, averaged over its
        channels. `mean` and `std` of a channel are 0 and 1 for inputs like those of training. `drifted` is null until
        the window is nearly full, and for a bundle without thresholds, which was exported without validation data.
        """
        model = find_model(request, repository)
        record: dict[str, Any] = {"model_name": model.name, "model_version": str(model.version)}
        if model.drift_monitor is None:
            return JSONResponse(record | {"monitored": False, "drifted": None})
        return JSONResponse(record | {"monitored": True} | _describe(model.drift_monitor))

    async def model_samples(request: Request) -> Response:
        """Recent inputs of a version as an .npz file, for `normfold adapt --samples`; 404 if none are kept."""
        model = find_model(request, repository)
        if model.drift_monitor is None or model.drift_monitor.samples is None:
            raise NoSamplesError(model.name)
        body = await thread_pool.call(model.drift_monitor.samples.to_npz)
        return Response(body, media_type="application/zip")

    content: dict[str, Any] = {"application/zip": {"schema": {"type": "string", "format": "binary"}}}
    npz = describe_responses(None, 404, content=content)
    add_model_route(router, "/v2", "/samples", model_samples, method="GET", responses=npz)
    responses = describe_responses("DriftScore", 404, example=_EXAMPLE)
    add_model_route(router, "/v2", "/drift", model_drift, method="GET", responses=responses)
    return router


def _describe(monitor: DriftMonitor) -> dict[str, Any]:
    score, facts = monitor.score(), monitor.monitor
    rows = 3600 * monitor.share / monitor.row_seconds if monitor.row_seconds else None
    return {
        "drifted": score.drifted,
        "rows": score.rows,
        "rows_not_finite": score.rows_not_finite,
        "window_rows": facts.window_rows,
        "window_fill": round(min(1.0, score.window_fill), 4),
        "calibration_rows": facts.calibration_rows,
        "layers": [_describe_layer(layer) for layer in score.layers],
        "sampling": {
            "share": monitor.share,
            "busy_share": round(monitor.busy_share, 6),
            "row_ms": round(1000 * monitor.row_seconds, 4),
            "max_rows_per_hour": None if rows is None else int(rows),
            "max_windows_per_hour": None if rows is None else round(rows / facts.window_rows, 1),
        },
    }


def _describe_layer(layer: LayerDrift) -> dict[str, Any]:
    return {
        "node": layer.node,
        "score": layer.score,
        "threshold": layer.threshold,
        "drifted": layer.drifted,
        "worst_channels": [
            {"channel": one.channel, "score": one.score, "mean": one.mean, "std": one.std}
            | ({} if one.name is None else {"name": one.name})
            for one in layer.worst_channels
        ],
    }
