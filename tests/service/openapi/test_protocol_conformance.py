"""The Open Inference Protocol's own paths and schemas against the running service, by schemathesis.

The document beside this file is written from the protocol's text. To collect these tests takes seconds, so
`make test-quick` leaves out the file.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import schemathesis
import yaml
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    positive_data_acceptance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.support.service import Service

DOCUMENT: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("open_inference_protocol.yaml").read_text())
MODEL = "identity-fp32"

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


def document_of_a_model() -> dict[str, Any]:
    """Return the document with requests that fit the model: it must answer each of them."""
    known = copy.deepcopy(DOCUMENT)
    for item in known["paths"].values():
        for parameter in item.get("parameters", ()):
            parameter["schema"]["enum"] = [MODEL] if parameter["name"] == "model_name" else ["1"]
    schemas = known["components"]["schemas"]
    number = {"type": "number", "minimum": -1e6, "maximum": 1e6}
    row = {"type": "array", "items": number, "minItems": 2, "maxItems": 2}
    two_rows = {"anyOf": [{**row, "minItems": 4, "maxItems": 4}, {**row, "items": row}]}  # flat, or nested
    fitting = {"name": {"const": "input"}, "datatype": {"const": "FP32"}, "shape": {"const": [2, 2]}, "data": two_rows}
    schemas["RequestInput"]["properties"] |= fitting
    schemas["RequestOutput"]["properties"]["name"] = {"const": "output"}
    schemas["InferenceRequest"]["properties"]["inputs"] |= {"minItems": 1, "maxItems": 1}
    schemas["InferenceRequest"]["properties"]["outputs"] |= {"maxItems": 1}
    return known


anything, fitting = map(schemathesis.openapi.from_dict, (DOCUMENT, document_of_a_model()))
few = settings(max_examples=10, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.mark.slow
@anything.parametrize()
@few
def test_protocol_is_spoken_on_every_path(case: Any, served: Service) -> None:
    case.call_and_validate(base_url=str(served.client.base_url), checks=CHECKS)


@pytest.mark.slow
@fitting.parametrize()
@few
def test_protocol_request_that_fits_the_model_is_answered(case: Any, served: Service) -> None:
    case.call_and_validate(base_url=str(served.client.base_url), checks=[*CHECKS, positive_data_acceptance])


def test_protocol_document_has_each_path_of_the_protocol() -> None:
    model = "/v2/models/{model_name}"
    models = {base + end for base in (model, f"{model}/versions/{{model_version}}") for end in ("", "/ready", "/infer")}
    assert set(DOCUMENT["paths"]) == {"/v2", "/v2/", "/v2/health/live", "/v2/health/ready", *models}


@pytest.mark.parametrize(
    ("path", "schema", "field"),
    [
        ("/v2", "ServerMetadata", "name"),
        ("/v2/health/ready", "ServerReady", "ready"),
        ("/v2/models/{model_name}", "ModelMetadata", "inputs"),
        ("/v2/models/{model_name}/ready", "ModelReady", "name"),
        ("/v2/models/{model_name}/infer", "InferenceResponse", "outputs"),
    ],
)
def test_protocol_document_with_another_field_is_contradicted(
    served: Service, path: str, schema: str, field: str
) -> None:
    wrong = document_of_a_model()
    wrong["components"]["schemas"][schema]["properties"][field] = {"type": "integer"}
    method = "POST" if path.endswith("/infer") else "GET"
    body = {"inputs": [{"name": "input", "datatype": "FP32", "shape": [1, 1], "data": [0]}]}
    sent: dict[str, Any] = {"body": body, "media_type": "application/json"} if method == "POST" else {}
    names: dict[str, Any] = {"path_parameters": {"model_name": MODEL}} if "{" in path else {}
    case = schemathesis.openapi.from_dict(wrong)[path][method].Case(**names, **sent)

    with pytest.raises(FailureGroup) as caught:
        case.call_and_validate(base_url=str(served.client.base_url), checks=CHECKS)

    assert any("integer" in str(failure) for failure in caught.value.exceptions)
