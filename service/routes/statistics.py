"""Statistics: Triton's statistics extension, and Prometheus metrics."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from normfold.service.observability.metrics import CONTENT_TYPE, Metrics
from normfold.service.observability.stats import Histogram, ModelStats
from normfold.service.repository.loaded_model import Model
from normfold.service.repository.repository import Repository
from normfold.service.routes.paths import add_model_route, describe_responses, find_model
from normfold.service.workers.coordinator import Coordinator

_EXAMPLE = {
    "model_stats": [
        {
            "name": "digits",
            "version": "1",
            "last_inference": 1764000000000,
            "inference_count": 3,
            "execution_count": 2,
            "inference_stats": {
                "success": {"count": 3, "ns": 900000},
                "fail": {"count": 0, "ns": 0},
                "queue": {"count": 3, "ns": 60000},
                "compute_input": {"count": 3, "ns": 90000},
                "compute_infer": {"count": 3, "ns": 75000},
                "compute_output": {"count": 3, "ns": 60000},
            },
            "batch_stats": [{"batch_size": 1, "compute_infer": {"count": 2, "ns": 50000}}],
        }
    ]
}


def statistics_routes(repository: Repository, coordinator: Coordinator, metrics: Metrics) -> APIRouter:
    """Return the routes of statistics and metrics.

    Args:
        repository: finds models.
        coordinator: has the statistics of all worker processes.
        metrics: has the Prometheus metrics.
    """
    router = APIRouter(tags=["statistics"])

    @router.get(
        "/v2/models/stats", response_class=JSONResponse, responses=describe_responses("Statistics", example=_EXAMPLE)
    )
    async def all_statistics(_: Request) -> JSONResponse:
        """Counts and durations of every version that is ready."""
        return JSONResponse(describe_statistics(repository, coordinator))

    async def model_statistics(request: Request) -> JSONResponse:
        """Counts and durations of one version: `inference_count` are rows, `execution_count` runs of the network."""
        return JSONResponse(describe_statistics(repository, coordinator, find_model(request, repository)))

    responses = describe_responses("Statistics", 404, example=_EXAMPLE)
    add_model_route(router, "/v2", "/stats", model_statistics, method="GET", responses=responses)

    text = {"text/plain": {"schema": {"type": "string"}}}

    @router.get("/metrics", response_class=Response, responses=describe_responses(None, content=text))
    async def prometheus_metrics(_: Request) -> Response:
        """Metrics in Prometheus' text format."""
        return Response(metrics.text(), media_type=CONTENT_TYPE)

    return router


def describe_statistics(repository: Repository, coordinator: Coordinator, model: Model | None = None) -> dict[str, Any]:
    """Return the statistics of a model's version, or of every version that is ready."""
    sums = coordinator.stats()
    if model is not None:
        chosen = [(model.name, model.version)]
    else:
        chosen = [
            (name, number)
            for name, versions in repository.entries.items()
            for number in versions
            if versions[number].model
        ]
    return {"model_stats": [_describe(*one, sums[one]) for one in chosen]}


def _describe(name: str, version: int, stats: ModelStats) -> dict[str, Any]:
    decode, queue, wait, run, encode, total = map(_duration, stats.phases)
    failed = stats.statuses.total() - stats.statuses[200]
    return {
        "name": name,
        "version": str(version),
        "last_inference": int(1000 * stats.last_at),
        "inference_count": stats.rows,
        "execution_count": stats.batch_rows.count,
        "inference_stats": {
            "success": total,
            "fail": {"count": failed, "ns": _ns(stats.failed_seconds)},
            "queue": {"count": queue["count"], "ns": queue["ns"] + wait["ns"]},
            "compute_input": decode,
            "compute_infer": run,
            "compute_output": encode,
        },
        "batch_stats": [
            {"batch_size": rows, "compute_infer": {"count": int(count), "ns": _ns(seconds)}}
            for rows, (count, seconds) in sorted(stats.batch_sizes.items())
        ],
    }


def _duration(histogram: Histogram) -> dict[str, int]:
    return {"count": histogram.count, "ns": _ns(histogram.sum)}


def _ns(seconds: float) -> int:
    return int(1e9 * seconds)
