"""Keys in the OpenAPI document, so that its pages can send one."""

from __future__ import annotations

from typing import Any

from normfold.service.auth.authorization import required_scope
from normfold.service.routes.paths import describe_status

_SCHEME = "key"


def describe_keys(document: dict[str, Any]) -> None:
    """Add to an OpenAPI document which scope the key of each operation needs, and the statuses without it."""
    document.setdefault("components", {})["securitySchemes"] = {
        _SCHEME: {
            "type": "http",
            "scheme": "bearer",
            "description": "A key from `normfold keys create`; the header `X-API-Key` is accepted too.",
        }
    }
    for path, operations in document["paths"].items():
        scope = required_scope(path)
        if scope == "public":
            continue
        for operation in operations.values():
            operation["security"] = [{_SCHEME: []}]
            needed = "of any scope" if scope == "any" else f"with the scope `{scope}`"
            operation["description"] = f"{operation['description']}\n\nNeeds a key {needed}."
            for status in (401, 403, 429):
                operation["responses"].setdefault(str(status), describe_status(status))
