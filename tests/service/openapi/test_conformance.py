"""The OpenAPI document against the running service: schemathesis sends requests to every operation.

To collect these tests takes three seconds, so `make test-quick` leaves out the file.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

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
from normfold.service.routes.schemas import ref
from normfold.service.settings import Settings
from tests.support.bundles import BundleWriter
from tests.support.service import Service, openapi_document, serve_app

DOCUMENT = openapi_document()

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


def depends_on_model(case: Any) -> bool:
    """Return whether a body of the schema may not fit the model: the schema has no shapes of the model."""
    return case.path.endswith(("infer", ":predict", ":classify"))


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
