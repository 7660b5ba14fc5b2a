"""The OpenAPI document against the running service: schemathesis sends requests to every operation."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from typing import Any

import jsonschema_rs  # comes with schemathesis
import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from onnx import helper
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    positive_data_acceptance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from normfold.contract.manifest import TensorSpec
from normfold.contract.preprocess import ImagePreprocessing
from normfold.contract.source_card import SourceCard
from normfold.service.app import create_app
from normfold.service.error_responses import STATUS
from normfold.service.errors import ControlError, RateError, ScopeError, UnauthenticatedError
from normfold.service.observability.request_trace import CLIENT_DISCONNECTED
from normfold.service.routes.schemas import SCHEMAS, ref
from normfold.service.settings import Settings
from tests.support.bundles import BundleWriter
from tests.support.service import Service, serve_app

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    response_headers_conformance,
    negative_data_rejection,
    positive_data_acceptance,
]


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with the model of the document's examples."""
    writer = BundleWriter(tmp_path_factory.mktemp("repository"))
    preprocessing = ImagePreprocessing(channels=1, height=8, width=8, value_max=16, mean=(0.305,), std=(1,))
    writer.write(
        "digits",
        1,
        [helper.make_node("GlobalAveragePool", ["input"], ["pool"]), helper.make_node("Flatten", ["pool"], ["logits"])],
        [TensorSpec(name="input", datatype="FP32", shape=(-1, 1, 8, 8))],
        [TensorSpec(name="logits", datatype="FP32", shape=(-1, 1))],
        card=SourceCard(preprocessing=preprocessing, labels=("0",), logits=("logits",)),
    )
    writer.rows()
    settings = Settings(repository=writer.root, provider="cpu")
    with serve_app(create_app(settings), settings) as service:
        service.wait_until_loaded()
        yield service


def document() -> dict[str, Any]:
    """Return the document; it does not depend on the models."""
    app = create_app(Settings.model_construct())  # nothing of the environment
    app.state.thread_pool.close()
    return app.openapi()


def depends_on_model(case: Any) -> bool:
    """Return whether a body of the schema may not fit the model: the schema has no shapes of the model."""
    return case.path.endswith(("infer", ":predict", ":classify"))


DOCUMENT = document()


def document_of_models() -> dict[str, Any]:
    """Return the document with the names of existing models; for others, an operation returns 404 only."""
    known = copy.deepcopy(DOCUMENT)
    for operations in known["paths"].values():
        for operation in operations.values():
            for parameter in operation.get("parameters", ()):
                if parameter["in"] == "path":
                    parameter["schema"]["enum"] = ["digits", "rows"] if parameter["name"] == "model" else ["1"]
    return known


anything, models = map(schemathesis.openapi.from_dict, (DOCUMENT, document_of_models()))
few = settings(max_examples=10, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.mark.slow
@anything.parametrize()
@few
def test_every_operation_conforms_to_the_document(case: Any, described: Service) -> None:
    check(case, described)


@pytest.mark.slow
@models.parametrize()
@few
def test_every_operation_of_an_existing_model_conforms_to_the_document(case: Any, described: Service) -> None:
    check(case, described)


def check(case: Any, service: Service) -> None:
    chosen = [one for one in CHECKS if one is not positive_data_acceptance or not depends_on_model(case)]
    case.call_and_validate(base_url=str(service.client.base_url), checks=chosen)


JSON_OF_READY = {"application/json": {"schema": ref("Ready")}}


@pytest.mark.parametrize(
    ("path", "change", "found"),
    [
        ("/v2/health/live", lambda right: right["200"].update(content=JSON_OF_READY), "ready"),
        ("/v2/health/live", lambda right: right.pop("200"), "Received: 200"),
        ("/v2/health/live", lambda right: right["200"]["headers"].update({"X-No": {"required": True}}), "X-No"),
        ("/metrics", lambda right: right["200"].update(content={"application/json": {}}), "application/json"),
    ],
)
def test_wrong_document_fails_the_checks(described: Service, path: str, change: Any, found: str) -> None:
    lying = copy.deepcopy(DOCUMENT)
    change(lying["paths"][path]["get"]["responses"])
    case = schemathesis.openapi.from_dict(lying)[path]["GET"].Case()

    with pytest.raises(FailureGroup) as caught:
        check(case, described)

    assert any(found in str(failure) for failure in caught.value.exceptions)


def operations() -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in DOCUMENT["paths"].items():
        for method, operation in methods.items():
            yield f"{method} {path}", operation


def test_every_example_fits_its_schema() -> None:
    checked = set()
    for label, operation in operations():
        for body in (operation.get("requestBody", {}), operation["responses"]["200"]):
            kind = body.get("content", {}).get("application/json", {})
            if "example" in kind:
                jsonschema_rs.validate({**kind["schema"], "components": DOCUMENT["components"]}, kind["example"])
                checked.add(label)
    assert {"post /v2/models/{model}/infer", "post /v1/models/{model}:predict", "get /v2/models/{model}"} <= checked


def test_every_status_of_a_request_is_documented() -> None:
    for label, operation in operations():
        responses = operation["responses"]
        assert {"200", "400", "408", "413", "431", "500", "503"} <= responses.keys(), label
        assert "Retry-After" in responses["503"]["headers"], label
        errors = [one["content"]["application/json"]["schema"] for status, one in responses.items() if status >= "400"]
        assert errors == [ref("Error")] * len(errors), label
    runs = DOCUMENT["paths"]["/v2/models/{model}/infer"]["post"]["responses"]
    described = {int(status) for status in runs}
    of_keys = {
        STATUS[kind] for kind in (UnauthenticatedError, ScopeError, RateError)
    }  # tests/service/auth/test_authorization.py has these
    assert described >= {status for kind, status in STATUS.items() if kind is not ControlError} - of_keys - {
        CLIENT_DISCONNECTED
    }


def test_every_schema_is_used() -> None:
    used, waiting = set(), [json.dumps(DOCUMENT["paths"])]
    while waiting:
        names = set(re.findall(r"#/components/schemas/(\w+)", waiting.pop())) - used
        used |= names
        waiting += [json.dumps(SCHEMAS[name]) for name in names]
    assert used == SCHEMAS.keys() == DOCUMENT["components"]["schemas"].keys()
