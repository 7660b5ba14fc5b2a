"""Reference pages of the documentation, generated from the code.

docs/conf.py replaces each line `<!-- generated: NAME -->` of a page by the Markdown that `GENERATORS[NAME]` returns, so
that nothing which the code states is typed a second time.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import re
import tempfile
import textwrap
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import typer
from fastapi import FastAPI
from pydantic import BaseModel

import normfold
from normfold.cli.main import app as command_line_app
from normfold.contract.manifest import Manifest
from normfold.contract.source_card import SourceCard
from normfold.service.app import create_app
from normfold.service.settings import PREFIX, Settings

ROOT = Path(__file__).resolve().parent.parent

PACKAGES = ("contract", "models", "export", "service", "normfold", "cli", "display")
"""Top-level folders of the product, in the order in which the documentation shows them."""


class UndocumentedError(Exception):
    """A public name, module, option, setting or metric has no description."""


def settings() -> str:
    """Return a table of all settings of the service: variable, option, type, default, description."""
    options = {
        parameter.name: parameter.opts[0]
        for parameter in _command("serve").params
        if parameter.param_type_name == "option"
    }
    rows = []
    for name, field in Settings.model_fields.items():
        default = field.get_default(call_default_factory=True)
        rows.append(
            (
                f"`{PREFIX}{name.upper()}`",
                f"`{options[name]}`" if name in options else "",
                _type_name(field.annotation),
                _default(default),
                _described(field.description, f"the setting {name!r}"),
            )
        )
    return _table(("variable", "option", "type", "default", "description"), rows)


def metrics() -> str:
    """Return a table of the service's own metrics, read from its registry."""
    rows = [row for row in _metric_rows() if not row[0].startswith("`nv_")]
    return _table(("metric", "type", "labels", "description"), rows)


def triton_metrics() -> str:
    """Return a table of the metrics that `NORMFOLD_TRITON_METRICS` adds."""
    rows = [row for row in _metric_rows() if row[0].startswith("`nv_")]
    return _table(("metric", "type", "labels", "description"), rows)


def commands() -> str:
    """Return a section for each command: usage, help, arguments and options."""
    return "\n\n".join(_command_sections(typer.main.get_command(command_line_app), "normfold"))


def routes() -> str:
    """Return a section for each tag of the OpenAPI document: method, path, summary and statuses of its routes."""
    document = _application().openapi()
    tags: dict[str, list[tuple[str, ...]]] = {}
    for path, operations in document["paths"].items():
        if "/versions/{version}" in path:
            continue
        for method, operation in operations.items():
            description = _described(operation.get("description"), f"{method} {path}").partition("\n\n")[0]
            statuses = ", ".join(operation["responses"])
            row = (f"`{method.upper()} {path}`", _one_line(description), statuses)
            tags.setdefault(operation["tags"][0], []).append(row)
    return "\n\n".join(
        f"### {tag}\n\n{_table(('route', 'description', 'statuses'), rows)}" for tag, rows in tags.items()
    )


def manifest() -> str:
    """Return a table of fields for each record of the manifest, from its JSON schema."""
    return _schema_sections(Manifest)


def source_card() -> str:
    """Return the JSON schema of a source card, as a block of JSON."""
    return f"```json\n{json.dumps(SourceCard.model_json_schema(), indent=2)}\n```"


def reason_codes() -> str:
    """Return a table of the codes that say why a BatchNormalization was kept."""
    from normfold.export.fold.reason_codes import ReasonCode

    rows = [(f"`{code.value}`", _described(code.description, f"the reason code {code.value!r}")) for code in ReasonCode]
    return _table(("code", "when it occurs, and what to do"), rows)


def python_api() -> str:
    """Return a section for each public name of the package `normfold`, rendered by autodoc from its docstring."""
    functions, classes, errors = [], [], []
    for name in normfold.__all__:
        member = getattr(normfold, name)
        if inspect.isclass(member) and issubclass(member, Exception):
            continue  # in the tree of errors
        if name == "errors":
            errors.append(_errors_tree(member))
        elif inspect.isclass(member):
            classes.append(_api_section(name, "autoclass", member))
        else:
            functions.append(_api_section(name, "autofunction", member))
    return "\n\n".join(("## Functions", *functions, "## Classes", *classes, "## Errors", *errors))


def folders() -> str:
    """Return a table of the packages and the folders in them, with the first sentence of each docstring."""
    rows = [
        (f"`{folder.as_posix()}/`", _summary(folder / "__init__.py"))
        for package in PACKAGES
        for folder in _folders(Path(package))
    ]
    return _table(("folder", "contents"), rows)


def modules() -> str:
    """Return a section for each folder: the modules in it, with the first sentence of each docstring."""
    sections = []
    for package in PACKAGES:
        for folder in _folders(Path(package)):
            sections.append(f"{'##' if len(folder.parts) == 1 else '###'} {folder.as_posix()}")
            sections.append(_summary(folder / "__init__.py"))
            names = sorted(path.name for path in (ROOT / folder).glob("*.py") if path.name != "__init__.py")
            if names:
                rows = [(f"`{name}`", _summary(folder / name)) for name in names]
                sections.append(_table(("module", "contents"), rows))
    return "\n\n".join(sections)


def _folders(folder: Path) -> Iterator[Path]:
    """Yield a package and all packages below it, relative to the repository; links of an editable install are not."""
    yield folder
    for path in sorted((ROOT / folder).iterdir()):
        if path.is_dir() and not path.is_symlink() and (path / "__init__.py").exists():
            yield from _folders(path.relative_to(ROOT))


def _summary(module: Path) -> str:
    """Return the first sentence of a module's docstring; the module is parsed, not imported."""
    text = ast.get_docstring(ast.parse((ROOT / module).read_text(encoding="utf-8")))
    return _first_sentence(_described(text, module.as_posix()))


def _first_sentence(text: str) -> str:
    """Return the first sentence of the first paragraph, on one line."""
    paragraph = _one_line(text.partition("\n\n")[0])
    sentence = re.split(r"(?<=\.) ", paragraph, maxsplit=1)[0]
    return sentence.rstrip(".:") + "."


def _api_section(name: str, directive: str, member: Any) -> str:
    """Return the heading of a public name, and the directive that renders it."""
    if inspect.ismodule(member):  # normfold.export is a package that can be called
        member = inspect.unwrap(importlib.import_module(f"normfold._{name}").__dict__[name])
    _described(inspect.getdoc(member), f"normfold.{name}")
    if inspect.isclass(member):
        for attribute, value in vars(member).items():
            if not attribute.startswith("_") and (inspect.isfunction(value) or isinstance(value, property)):
                _described(inspect.getdoc(value), f"normfold.{name}.{attribute}")
    options = "\n   :members:" if inspect.isclass(member) else ""
    target = f"{member.__module__}.{member.__qualname__}"
    return f"### {name}\n\n```{{eval-rst}}\n.. {directive}:: {target}{options}\n```"


def _errors_tree(module: types.ModuleType) -> str:
    """Return the docstring of `normfold.errors`, which draws the tree of all errors.

    Raises:
        UndocumentedError: an error of the module, or of the package itself, is not in the tree.
    """
    text = _described(inspect.getdoc(module), module.__name__)
    for name in (*getattr(module, "__all__", ()), *normfold.__all__):
        member = getattr(module, name, None)
        if inspect.isclass(member) and issubclass(member, Exception) and not re.search(rf"\b{name}\b", text):
            raise UndocumentedError(f"normfold.errors.{name} is not in the tree of errors")
    summary, _, tree = text.partition("\n    ")
    where = f"All are in `{module.__name__}`, the roots of the tree in `normfold` too."
    return f"{summary} {where}\n\n```text\n{textwrap.dedent('    ' + tree)}\n```"


GENERATORS: dict[str, Callable[[], str]] = {
    "settings": settings,
    "metrics": metrics,
    "triton-metrics": triton_metrics,
    "commands": commands,
    "routes": routes,
    "manifest": manifest,
    "source-card": source_card,
    "reason-codes": reason_codes,
    "python-api": python_api,
    "folders": folders,
    "modules": modules,
}


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
            _described(family.documentation, f"the metric {name!r}"),
        )


def _command(name: str) -> Any:
    group: Any = typer.main.get_command(command_line_app)
    return group.get_command(typer.Context(group), name)


def _command_sections(command: Any, path: str) -> Iterator[str]:
    """Yield the section of a command and of those below it."""
    context = typer.Context(command, info_name=path)
    level = "##" if path.count(" ") < 2 else "###"
    if path != "normfold":
        yield f"{level} {path}"
    yield _described(inspect.cleandoc(command.help or ""), f"the command {path!r}")
    if hasattr(command, "list_commands"):
        for name in command.list_commands(context):
            yield from _command_sections(command.get_command(context, name), f"{path} {name}")
        return
    arguments = [parameter for parameter in command.params if parameter.param_type_name == "argument"]
    usage = " ".join([path, "[OPTIONS]", *(parameter.metavar or parameter.name.upper() for parameter in arguments)])
    yield f"```console\n$ {usage}\n```"
    rows = [
        (_parameter_name(parameter), _default_of(parameter), _described(parameter.help, f"{path} {parameter.name}"))
        for parameter in command.params
        if parameter.name != "help" and not parameter.hidden
    ]
    yield _table(("argument or option", "default", "description"), rows)


def _parameter_name(parameter: Any) -> str:
    """Return an argument's name, or an option with the form of its value."""
    if parameter.param_type_name == "argument":
        return f"`{parameter.metavar or parameter.name.upper()}`"
    names = ", ".join((*parameter.opts, *parameter.secondary_opts))
    if parameter.is_flag:
        return f"`{names}`"
    value = parameter.metavar or _type_name(parameter.type_descriptor.annotation).strip("`").upper()
    return f"`{names} {value}`"


def _default_of(parameter: Any) -> str:
    shown = parameter.show_default
    if isinstance(shown, str):
        return shown
    if parameter.required:
        return "required"
    if parameter.default is None or parameter.default is False or parameter.default in ((), []):
        return ""
    return f"`{parameter.default}`"


def _type_name(annotation: Any) -> str:
    """Return a type as a reader writes its values: `integer`, `seconds`, or the values of a choice."""
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        parts = [part for part in typing.get_args(annotation) if part is not type(None)]
        return " or ".join(dict.fromkeys(_type_name(part) for part in parts))
    if origin is typing.Literal:
        return ", ".join(f"`{value}`" for value in typing.get_args(annotation))
    if origin is dict:
        return "JSON object"
    if origin in (tuple, list):
        return f"list of {_type_name(typing.get_args(annotation)[0])}"
    names = {bool: "boolean", int: "integer", float: "number", str: "text", Path: "path"}
    return names.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _default(value: Any) -> str:
    if value is None or value == () or value == {}:
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, int) and value >= 2**16 and value % 2**10 == 0:
        for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
            if value % size == 0:
                return f"`{value}` ({value // size} {unit})"
    return f"`{value}`"


def _schema_sections(model: type[BaseModel]) -> str:
    """Return a table of fields for a model and each record that it refers to."""
    schema = model.model_json_schema()
    sections = [_fields_table(schema)]
    sections += [
        f"### {name}\n\n{_one_line(record.get('description', ''))}\n\n{_fields_table(record)}"
        for name, record in sorted(schema["$defs"].items())
    ]
    return "\n\n".join(sections)


def _fields_table(record: dict[str, Any]) -> str:
    required = set(record.get("required", ()))
    rows = [
        (
            f"`{name}`",
            _schema_type(field),
            "required" if name in required else _default(field.get("default")),
            _one_line(field.get("description", "")),
        )
        for name, field in record["properties"].items()
    ]
    return _table(("field", "type", "default", "description"), rows)


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


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; columns in which every cell is empty are left out."""
    filled = [[_one_line(cell).replace("|", "\\|") for cell in row] for row in rows]
    used = [column for column in range(len(head)) if any(row[column] for row in filled)]
    lines = [
        [head[column] for column in used],
        ["---"] * len(used),
        *([row[column] for column in used] for row in filled),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _described(text: str | None, name: str) -> str:
    """Return a description.

    Raises:
        UndocumentedError: it is missing.
    """
    if not text or not text.strip():
        raise UndocumentedError(f"{name} has no description")
    return text


def _one_line(text: str) -> str:
    return " ".join(text.split())
