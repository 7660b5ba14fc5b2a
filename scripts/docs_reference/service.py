"""Settings, metrics and routes of the service, read from its application."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from fastapi import FastAPI

from normfold.service.app import create_app
from normfold.service.settings import PREFIX, Settings
from scripts.docs_reference.commands import command_named
from scripts.docs_reference.markdown import described, one_line, table
from scripts.docs_reference.values import default_text, type_name


def settings() -> str:
    """Return a table of all settings of the service: variable, option, type, default, description."""
    options = {
        parameter.name: parameter.opts[0]
        for parameter in command_named("serve").params
        if parameter.param_type_name == "option"
    }
    rows = []
    for name, field in Settings.model_fields.items():
        default = field.get_default(call_default_factory=True)
        rows.append(
            (
                f"`{PREFIX}{name.upper()}`",
                f"`{options[name]}`" if name in options else "",
                type_name(field.annotation),
                default_text(default),
                described(field.description, f"the setting {name!r}"),
            )
        )
    return table(("variable", "option", "type", "default", "description"), rows)


def metrics() -> str:
    """Return a table of the service's own metrics, read from its registry."""
    rows = [row for row in _metric_rows() if not row[0].startswith("`nv_")]
    return table(("metric", "type", "labels", "description"), rows)


def triton_metrics() -> str:
    """Return a table of the metrics that `NORMFOLD_TRITON_METRICS` adds."""
    rows = [row for row in _metric_rows() if row[0].startswith("`nv_")]
    return table(("metric", "type", "labels", "description"), rows)


def routes() -> str:
    """Return a section for each tag of the OpenAPI document: method, path, summary and statuses of its routes."""
    document = _application().openapi()
    tags: dict[str, list[tuple[str, ...]]] = {}
    for path, operations in document["paths"].items():
        if "/versions/{version}" in path:
            continue
        for method, operation in operations.items():
            description = described(operation.get("description"), f"{method} {path}").partition("\n\n")[0]
            statuses = ", ".join(operation["responses"])
            row = (f"`{method.upper()} {path}`", one_line(description), statuses)
            tags.setdefault(operation["tags"][0], []).append(row)
    return "\n\n".join(
        f"### {tag}\n\n{table(('route', 'description', 'statuses'), rows)}" for tag, rows in tags.items()
    )


def _application() -> FastAPI:
    """Return the service's application, for an empty repository, with all metrics."""
    return create_app(Settings(repository=Path(tempfile.gettempdir()) / "empty", triton_metrics=True))


def _metric_rows() -> Iterator[tuple[str, ...]]:
    for family in _application().state.metrics.families():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = getattr(family, "_labelnames", ())  # prometheus_client has no public name for them
        yield (
            f"`{name}`",
            family.type,
            ", ".join(f"`{label}`" for label in labels),
            described(family.documentation, f"the metric {name!r}"),
        )
