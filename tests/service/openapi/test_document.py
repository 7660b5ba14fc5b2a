"""The OpenAPI document by itself: examples, statuses and schemas."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import jsonschema_rs  # comes with schemathesis

from normfold.service.error_responses import STATUS
from normfold.service.errors import ControlError, RateError, ScopeError, UnauthenticatedError
from normfold.service.observability.request_trace import CLIENT_DISCONNECTED
from normfold.service.routes.schemas import SCHEMAS, ref
from tests.support.service import openapi_document

DOCUMENT = openapi_document()


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
