"""The shadow and the canary of a model: what they do, and starting, ending and promoting them."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse

from normfold.service.batching.thread_pool import ThreadPool
from normfold.service.codec.request import parse_object
from normfold.service.errors import InvalidRequestError, ModelUnavailableError, NoRolloutError, UnknownModelError
from normfold.service.http.body import read_plain_body
from normfold.service.observability.snapshot import ShadowSnapshot
from normfold.service.observability.stats import Histogram
from normfold.service.repository.repository import Repository
from normfold.service.repository.roles import Candidate, RolloutKind
from normfold.service.rollout.control import RolloutControl
from normfold.service.rollout_options import SHADOW_SHARE, check_share
from normfold.service.routes.examples import json_body
from normfold.service.routes.paths import MODEL_PARAMETER, describe_responses
from normfold.service.settings import Settings
from normfold.service.workers.coordinator import Coordinator
from normfold.service.workers.snapshot import take_shadow_snapshot

_CANARY = {"model_name": "digits", "model_version": "2", "serving_version": "1", "share": 0.05, "state": "READY"}
_SHADOW = {
    **_CANARY,
    "share": 1.0,
    "requests": {"compared": 180, "dropped": 3, "failed": 0},
    "rows": 180,
    "rows_not_finite": 0,
    "classes": {"compared": 180, "agreeing": 179, "agreement": 0.99444},
    "outputs": [{"name": "logits", "max_difference": 0.0412}],
    "run_ms": {"serving": 0.081, "shadow": 0.064},
}
_CHANGED = {"model_name": "digits", "model_version": "2", "serving_version": "2"}

_EXAMPLES: dict[str, dict[str, Any]] = {"Shadow": _SHADOW, "Canary": _CANARY}
_BODIES = (
    "The version, and the share of the requests that it is offered, 1 if left out.",
    "The version, and its share of the requests that name no version.",
)


def rollout_routes(
    repository: Repository,
    coordinator: Coordinator,
    control: RolloutControl,
    thread_pool: ThreadPool,
    settings: Settings,
) -> APIRouter:
    """Return the routes of shadows and canaries.

    Args:
        repository: has the versions and their roles.
        coordinator: changes roles in every worker process, and has the sums of all.
        control: checks what a client asks for.
        thread_pool: decompresses a large body.
        settings: limit on bodies.
    """
    router = APIRouter(prefix="/v2/models/{model}", tags=["rollout"])

    def describe(kind: RolloutKind, name: str) -> dict[str, Any]:
        candidate = repository.roles.of(name).candidate(kind)
        if candidate is None:
            if name not in repository.entries:
                repository.find(name)
            raise NoRolloutError(name, kind)
        described = {
            "model_name": name,
            "model_version": str(candidate.version),
            "serving_version": _serving_version(repository, name),
            "share": candidate.share,
        }
        if kind == "shadow":
            return described | _describe_shadow(take_shadow_snapshot(name, candidate, coordinator))
        return described | _describe_canary(name, candidate, repository, coordinator)

    async def start(request: Request, kind: RolloutKind) -> JSONResponse:
        control.require_control()
        name = request.path_params["model"]
        body = await read_plain_body(request, thread_pool, settings.max_body_bytes)
        version, share = _read_start(parse_object(body), kind)
        await coordinator.set_roles(name, await control.plan_start(kind, name, version, share))
        described = describe(kind, name)
        if described["state"] != "READY":
            raise ModelUnavailableError(name, version, described.get("reason", "another worker has not loaded it."))
        return JSONResponse(described)

    async def end(request: Request, kind: RolloutKind) -> JSONResponse:
        control.require_control()
        name = request.path_params["model"]
        state, candidate = control.plan_end(kind, name), repository.roles.of(name).candidate(kind)
        await coordinator.set_roles(name, state)
        return JSONResponse(_describe_change(repository, name, candidate))

    async def promote(request: Request, kind: RolloutKind) -> JSONResponse:
        control.require_control()
        name = request.path_params["model"]
        state, candidate = control.plan_promotion(kind, name), repository.roles.of(name).candidate(kind)
        await coordinator.set_roles(name, state)
        if candidate is not None:
            repository.find(name, str(candidate.version))  # an error if it could not be loaded
        return JSONResponse(_describe_change(repository, name, candidate))

    responses = {name: describe_responses(name, 404, example=example) for name, example in _EXAMPLES.items()}
    started = {name: describe_responses(name, 403, 404, 415, example=example) for name, example in _EXAMPLES.items()}
    changed = describe_responses("RolloutChange", 403, 404, example=_CHANGED)
    extra: dict[str, Any] = {"parameters": [MODEL_PARAMETER]}
    bodies = {
        name: json_body("RolloutRequest", {"version": "2", "share": example["share"]}, text) | extra
        for (name, example), text in zip(_EXAMPLES.items(), _BODIES, strict=True)
    }

    @router.get("/shadow", response_class=JSONResponse, responses=responses["Shadow"], openapi_extra=extra)
    async def shadow(request: Request) -> JSONResponse:
        """The shadow of a model: how its outputs compare with those that were served, over all worker processes."""
        return JSONResponse(describe("shadow", request.path_params["model"]))

    @router.get("/canary", response_class=JSONResponse, responses=responses["Canary"], openapi_extra=extra)
    async def canary(request: Request) -> JSONResponse:
        """The canary of a model ; `GET /v2/models/{model}/versions/{version}/stats` counts its requests."""
        return JSONResponse(describe("canary", request.path_params["model"]))

    @router.post(
        "/shadow/start", response_class=JSONResponse, responses=started["Shadow"], openapi_extra=bodies["Shadow"]
    )
    async def start_shadow(request: Request) -> JSONResponse:
        """Run a version beside the one that serves, and compare; needs model_control=explicit, or keys."""
        return await start(request, "shadow")

    @router.post(
        "/canary/start", response_class=JSONResponse, responses=started["Canary"], openapi_extra=bodies["Canary"]
    )
    async def start_canary(request: Request) -> JSONResponse:
        """Let a version serve a share of the requests that name none; needs model_control=explicit, or keys."""
        return await start(request, "canary")

    @router.post("/shadow/end", response_class=JSONResponse, responses=changed, openapi_extra=extra)
    async def end_shadow(request: Request) -> JSONResponse:
        """End the shadow of a model; its version does not serve."""
        return await end(request, "shadow")

    @router.post("/canary/end", response_class=JSONResponse, responses=changed, openapi_extra=extra)
    async def end_canary(request: Request) -> JSONResponse:
        """End the canary of a model; its version answers what it has, and does not serve from then on."""
        return await end(request, "canary")

    @router.post("/shadow/promote", response_class=JSONResponse, responses=changed, openapi_extra=extra)
    async def promote_shadow(request: Request) -> JSONResponse:
        """Let the shadow of a model serve; the version before it answers until the new one is loaded."""
        return await promote(request, "shadow")

    @router.post("/canary/promote", response_class=JSONResponse, responses=changed, openapi_extra=extra)
    async def promote_canary(request: Request) -> JSONResponse:
        """Let the canary of a model serve all requests."""
        return await promote(request, "canary")

    return router


def _read_start(record: dict[str, Any], kind: RolloutKind) -> tuple[str, float]:
    """Return the version and the share that a body asks for.

    Raises:
        InvalidRequestError: the body names no version, or a share that is not from 0 to 1.
    """
    version, share = record.get("version"), record.get("share")
    if type(version) is int:
        version = str(version)
    if not isinstance(version, str):
        raise InvalidRequestError("The field 'version' is not a version, such as \"2\".")
    if share is None and kind == "shadow":
        share = SHADOW_SHARE
    if share is None:
        raise InvalidRequestError("The body has no field 'share'; give a number from 0 to 1.")
    if isinstance(share, bool) or not isinstance(share, int | float):
        raise InvalidRequestError("The field 'share' is not a number from 0 to 1.")
    try:
        return version, check_share(float(share))
    except ValueError as error:
        raise InvalidRequestError(f"The field 'share' is wrong: {error}.") from None


def _serving_version(repository: Repository, name: str) -> str | None:
    try:
        return str(repository.find(name).version)
    except (ModelUnavailableError, UnknownModelError):
        return None


def _describe_change(repository: Repository, name: str, candidate: Candidate | None) -> dict[str, Any]:
    version = None if candidate is None else str(candidate.version)
    return {"model_name": name, "model_version": version, "serving_version": _serving_version(repository, name)}


def _describe_shadow(shadow: ShadowSnapshot) -> dict[str, Any]:
    stats = shadow.stats
    agreement = None if stats.agreement is None else round(stats.agreement, 5)
    described: dict[str, Any] = {"state": "READY" if shadow.is_ready else "UNAVAILABLE"}
    if shadow.problem is not None:
        described["reason"] = shadow.problem
    return described | {
        "requests": {"compared": stats.compared, "dropped": stats.dropped, "failed": stats.failed},
        "rows": stats.rows,
        "rows_not_finite": stats.rows_not_finite,
        "classes": {"compared": stats.classified, "agreeing": stats.agreeing, "agreement": agreement},
        "outputs": [{"name": name, "max_difference": value} for name, value in stats.max_differences.items()],
        "run_ms": {"serving": _mean_ms(stats.serving_run), "shadow": _mean_ms(stats.shadow_run)},
    }


def _describe_canary(name: str, canary: Candidate, repository: Repository, coordinator: Coordinator) -> dict[str, Any]:
    if coordinator.is_ready(name, canary.version):
        return {"state": "READY"}
    entry = repository.entries.get(name, {}).get(canary.version)
    reason = f"There is no version {canary.version} of model {name!r}." if entry is None else entry.reason
    return {"state": "UNAVAILABLE", "reason": reason or "another worker has not loaded it."}


def _mean_ms(histogram: Histogram) -> float | None:
    count = histogram.count
    return round(1000 * histogram.sum / count, 4) if count else None
