"""What the OpenAPI document says of keys, so that its pages can send one."""

from __future__ import annotations

from typing import Any

from normfold.service.auth.authorization import required_scope
from normfold.service.routes.paths import describe_status

_SCHEME = "key"


def describe_keys(document: dict[str, Any]) -> None:
    """Declare in an OpenAPI document that operations need a key, which scope each, and how they refuse."""
    document.setdefault("components", {})["securitySchemes"] = {
        _SCHEME: {
            "type": "http",
            "scheme": "bearer",
            "description": "A key that `normfold keys create` made; the header `X-API-Key` takes it as well.",
        }
    }
    for path, operations in document["paths"].items():
        need = required_scope(path)
        if need == "public":
            continue
        for operation in operations.values():
            operation["security"] = [{_SCHEME: []}]
            operation["description"] = f"{operation['description']}\n\nNeeds a key with the scope `{need}`."
            for status in (401, 403, 429):
                operation["responses"].setdefault(str(status), describe_status(status))
