"""The commands of the command line, read from Typer."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import typer

from normfold.cli.main import app as command_line_app
from scripts.docs_reference.markdown import described, table
from scripts.docs_reference.values import type_name


def commands() -> str:
    """Return a section for each command: usage, help, arguments and options."""
    return "\n\n".join(_command_sections(typer.main.get_command(command_line_app), "normfold"))


def command_named(name: str) -> Any:
    group: Any = typer.main.get_command(command_line_app)
    return group.get_command(typer.Context(group), name)


def _command_sections(command: Any, path: str) -> Iterator[str]:
    """Yield the section of a command and of those below it."""
    context = typer.Context(command, info_name=path)
    level = "##" if path.count(" ") < 2 else "###"
    if path != "normfold":
        yield f"{level} {path}"
    yield described(inspect.cleandoc(command.help or ""), f"the command {path!r}")
    if hasattr(command, "list_commands"):
        for name in command.list_commands(context):
            yield from _command_sections(command.get_command(context, name), f"{path} {name}")
        return
    arguments = [parameter for parameter in command.params if parameter.param_type_name == "argument"]
    usage = " ".join([path, "[OPTIONS]", *(parameter.metavar or parameter.name.upper() for parameter in arguments)])
    yield f"```console\n$ {usage}\n```"
    rows = [
        (_parameter_name(parameter), _default_of(parameter), described(parameter.help, f"{path} {parameter.name}"))
        for parameter in command.params
        if parameter.name != "help" and not parameter.hidden
    ]
    yield table(("argument or option", "default", "description"), rows)


def _parameter_name(parameter: Any) -> str:
    """Return an argument's name, or an option with the form of its value."""
    if parameter.param_type_name == "argument":
        return f"`{parameter.metavar or parameter.name.upper()}`"
    names = ", ".join((*parameter.opts, *parameter.secondary_opts))
    if parameter.is_flag:
        return f"`{names}`"
    value = parameter.metavar or type_name(parameter.type_descriptor.annotation).strip("`").upper()
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
