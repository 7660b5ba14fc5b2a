"""Records of files: the manifest, a source card, and the reason codes of a report."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel

from normfold.contract.manifest import Manifest
from normfold.contract.source_card import SourceCard
from normfold.export.fold.reason_codes import ReasonCode
from scripts.docs_reference.markdown import described, one_line, table
from scripts.docs_reference.values import default_text


def manifest() -> str:
    """Return a table of fields for each record of the manifest, from its JSON schema."""
    return _schema_sections(Manifest)


def source_card() -> str:
    """Return the JSON schema of a source card, as a block of JSON."""
    return f"```json\n{json.dumps(SourceCard.model_json_schema(), indent=2)}\n```"


def reason_codes() -> str:
    """Return a table of the codes that say why a BatchNormalization was kept."""
    rows = [(f"`{code.value}`", described(code.description, f"the reason code {code.value!r}")) for code in ReasonCode]
    return table(("code", "when it occurs, and what to do"), rows)


def _schema_sections(model: type[BaseModel]) -> str:
    """Return a table of fields for a model and each record that it refers to."""
    schema = model.model_json_schema()
    sections = [_fields_table(schema)]
    sections += [
        f"### {name}\n\n{one_line(record.get('description', ''))}\n\n{_fields_table(record)}"
        for name, record in sorted(schema["$defs"].items())
    ]
    return "\n\n".join(sections)


def _fields_table(record: dict[str, Any]) -> str:
    required = set(record.get("required", ()))
    rows = [
        (
            f"`{name}`",
            _schema_type(field),
            "required" if name in required else default_text(field.get("default")),
            one_line(field.get("description", "")),
        )
        for name, field in record["properties"].items()
    ]
    return table(("field", "type", "default", "description"), rows)


def _schema_type(field: dict[str, Any]) -> str:
    if "$ref" in field:
        name = field["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    for several in ("anyOf", "oneOf"):
        if several in field:
            return " or ".join(_schema_type(part) for part in field[several])
    if "const" in field:
        return f"`{json.dumps(field['const'])}`"
    if "enum" in field:
        return " or ".join(f"`{json.dumps(value)}`" for value in field["enum"])
    if field.get("type") == "array":
        if "items" in field:
            return f"array of {_schema_type(field['items'])}"
        return f"array of {len(field['prefixItems'])}: {', '.join(_schema_type(part) for part in field['prefixItems'])}"
    if field.get("type") == "object" and isinstance(field.get("additionalProperties"), dict):
        return f"object of {_schema_type(field['additionalProperties'])}"
    return str(field.get("type", "any"))
