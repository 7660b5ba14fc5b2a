"""Routes that describe models: the list of all, and the protocol's metadata, readiness and configuration."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from normfold.contract.manifest import TensorSpec
from normfold.contract.tables.preprocessing import TablePreprocessing
from normfold.contract.tables.row_schema import row_schema
from normfold.service.errors import ModelUnavailableError
from normfold.service.repository.entry import VersionEntry
from normfold.service.repository.loaded_model import Model
from normfold.service.repository.repository import Repository
from normfold.service.repository.version_policy import VersionPolicy
from normfold.service.routes.examples import DIGIT
from normfold.service.routes.paths import add_model_route, describe_responses, find_model

_METADATA = {
    "name": "digits",
    "versions": ["1"],
    "platform": "onnxruntime_onnx",
    "inputs": [{"name": "input", "datatype": "FP32", "shape": [-1, 1, len(DIGIT), len(DIGIT[0])]}],
    "outputs": [{"name": "logits", "datatype": "FP32", "shape": [-1, 10]}],
}


_CONFIG = {
    "name": "digits",
    "platform": "onnxruntime_onnx",
    "max_batch_size": 64,
    "input": [{"name": "input", "data_type": "TYPE_FP32", "dims": [1, 8, 8]}],
    "output": [{"name": "logits", "data_type": "TYPE_FP32", "dims": [10]}],
    "dynamic_batching": {"max_queue_delay_microseconds": 0},
    "parameters": {"provider": {"string_value": "cpu"}},
}


def model_routes(repository: Repository) -> APIRouter:
    """Return the routes that describe models."""
    router = APIRouter(tags=["models"])

    @router.get("/v1/models", response_class=JSONResponse, responses=describe_responses("Models"))
    async def list_models(_: Request) -> JSONResponse:
        """Every version of every model: state, reason if it is unavailable, inputs and outputs."""
        models: list[dict[str, Any]] = [
            {"name": name, "versions": [_describe(number, entry) for number, entry in versions.items()]}
            for name, versions in repository.entries.items()
        ]
        models += [{"name": name, "versions": [], "reason": reason} for name, reason in repository.unreadable.items()]
        return JSONResponse({"models": models})

    async def model_metadata(request: Request) -> JSONResponse:
        """Inputs and outputs of a model; -1 is a free size."""
        return JSONResponse(describe_metadata(find_model(request, repository), repository))

    async def model_config(request: Request) -> JSONResponse:
        """Configuration of a model in Triton's form, with the options in effect."""
        return JSONResponse(describe_configuration(find_model(request, repository), repository.policy))

    async def model_ready(request: Request) -> JSONResponse:
        """The model is loaded and warmed up; otherwise 503 and the reason."""
        try:
            model = find_model(request, repository)
        except ModelUnavailableError as error:
            return JSONResponse({"name": error.model, "ready": False, "error": str(error)}, 503)
        return JSONResponse({"name": model.name, "ready": True})

    async def model_alive(request: Request) -> JSONResponse:
        """The same as `GET /v2/models/{model}/ready`, as KServe's first protocol asks for it."""
        if ":" in request.url.path.rpartition("/")[2]:  # no model or version has one: another route of this prefix
            raise HTTPException(405, headers={"Allow": "POST"})
        return await model_ready(request)

    ready = {"name": "digits", "ready": True}
    responses = describe_responses("ModelReady", 404, example=ready)
    add_model_route(router, "/v1", "", model_alive, method="GET", responses=responses)
    for suffix, endpoint, schema, example in (
        ("", model_metadata, "Metadata", _METADATA),
        ("/ready", model_ready, "ModelReady", ready),
        ("/config", model_config, "Config", _CONFIG),
    ):
        responses = describe_responses(schema, 404, example=example)
        add_model_route(router, "/v2", suffix, endpoint, method="GET", responses=responses)
    return router


def describe_metadata(model: Model, repository: Repository) -> dict[str, Any]:
    """Return the protocol's metadata of a model."""
    return {
        "name": model.name,
        "versions": [str(number) for number, entry in repository.entries[model.name].items() if entry.model],
        "platform": "onnxruntime_onnx",
        "inputs": _describe_inputs(model),
        "outputs": _describe_values(model.manifest.outputs),
    }


def describe_configuration(model: Model, versions: VersionPolicy) -> dict[str, Any]:
    """Return the configuration of a model in Triton's form."""
    policy, batchable = model.batcher.policy, model.manifest.batchable
    rows = policy.max_batch_size if batchable else 0

    def tensors(specs: tuple[TensorSpec, ...]) -> list[dict[str, Any]]:
        return [_configure_tensor(spec, spec.shape[1:] if rows else spec.shape) for spec in specs]

    return {
        "name": model.name,
        "platform": "onnxruntime_onnx",
        "backend": "onnxruntime",
        "version_policy": versions.as_configuration(),
        "max_batch_size": rows,
        "input": tensors(model.manifest.inputs) + _optional_inputs(model),
        "output": tensors(model.manifest.outputs),
        "dynamic_batching": {
            "max_queue_delay_microseconds": int(1e6 * policy.delay_s),
            "default_queue_policy": {
                "default_timeout_microseconds": int(1e6 * model.timeouts.default_s),
                "max_queue_size": policy.queue_capacity,
            },
        },
        "instance_group": [{"count": 1, "kind": "KIND_CPU" if model.session.placement.runs_on_host else "KIND_GPU"}],
        "parameters": {name: {"string_value": text} for name, text in _parameters(model).items()},
    }


def _configure_tensor(spec: TensorSpec, dims: tuple[int, ...]) -> dict[str, Any]:
    datatype = "STRING" if spec.datatype == "BYTES" else spec.datatype
    return {"name": spec.name, "data_type": f"TYPE_{datatype}", "dims": list(dims)}


def _optional_inputs(model: Model) -> list[dict[str, Any]]:
    """Return the inputs with a default, with all of their sizes: they have no row axis."""
    return [{**_configure_tensor(spec, spec.shape), "optional": True} for spec in model.optional_inputs]


def _parameters(model: Model) -> dict[str, str]:
    """Return a model's provider and options; the protocol's parameters are strings."""
    policy, place = model.batcher.policy, model.session.placement
    parameters = {"provider": place.provider, "runs_on_event_loop": str(policy.inline).lower()}
    precision = model.manifest.precision
    if precision is not None:
        parameters["precision"] = precision.kind.value
    if model.fused_sqnr_db is not None:
        parameters["int8_check_db"] = f"{model.fused_sqnr_db:.1f}"
    if policy.sizes:
        parameters["batch_sizes"] = ", ".join(map(str, policy.sizes))
    for provider, count in (place.nodes or {}).items():
        parameters[f"nodes.{provider}"] = str(count)
    for name, outcome in model.tuning.describe().items():
        parameters[f"tuning.{name}"] = outcome
    for name, value in sorted(place.options.items()):
        parameters[f"provider_options.{name}"] = value
    return parameters


def _describe(number: int, entry: VersionEntry) -> dict[str, Any]:
    described: dict[str, Any] = {"version": str(number), "state": entry.state}
    if entry.reason:
        described["reason"] = entry.reason
    return described | (_describe_model(entry.model) if entry.model else {})


def _describe_model(model: Model) -> dict[str, Any]:
    card = model.manifest.card
    return {
        "provider": model.session.provider,
        "nodes": model.session.placement.nodes,
        "inputs": _describe_inputs(model),
        "outputs": _describe_values(model.manifest.outputs),
        "preprocessing": card.preprocessing.model_dump(mode="json") if card.preprocessing else None,
        **({"row": row_schema(card.preprocessing)} if isinstance(card.preprocessing, TablePreprocessing) else {}),
        "labels": card.labels,
        "task": card.task.model_dump(mode="json") if card.task else None,
        "precision": None if model.manifest.precision is None else model.manifest.precision.kind.value,
    }


def _describe_inputs(model: Model) -> list[dict[str, Any]]:
    """Return the inputs; those with a default carry the parameter `optional`."""
    optional = [
        {**described, "parameters": {"optional": True}} for described in _describe_values(model.optional_inputs)
    ]
    return _describe_values(model.manifest.inputs) + optional


def _describe_values(specs: tuple[TensorSpec, ...]) -> list[dict[str, Any]]:
    return [spec.model_dump(mode="json") for spec in specs]
