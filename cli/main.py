"""The `normfold` command.

Exit codes: 0 done; 1 a check failed; 2 wrong use or input; 3 the environment; 70 an error in Normfold itself.

A command's module is imported when the command is called or listed; its function imports the packages that it runs
on, so that `normfold serve` never imports torch or onnx, and `normfold --help` none of them.
"""

from __future__ import annotations

import signal
import sys
from collections import UserDict
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from normfold.cli.option_names import OPTIONS
from normfold.cli.signals import exit_at_once
from normfold.cli.standard_streams import open_closed_streams
from normfold.contract.errors import NormfoldError

INTERNAL_FAULT = 70
"""Exit code of an unforeseen error: not 1, which means that a check failed."""

COMMANDS = (
    *(
        "train",
        "audit",
        "repair",
        "export",
        "fold",
        "unfold",
        "inspect",
        "verify",
        "quantize",
        "adapt",
        "serve",
        "bench",
        "study",
    ),
    *("repository", "keys"),
)
"""In the order of the help. A command's module has a function of its name, or a Typer `app` of several."""

ON_ONNX_FILES = frozenset({"fold", "inspect", "quantize", "repair", "unfold", "verify"})
"""Commands whose modules are in `normfold.cli.commands.onnx_files`; the others are in `normfold.cli.commands`."""


class _Commands(UserDict[str, Any]):
    """Name to command; its module is imported when the command is looked up."""

    def __getitem__(self, name: str) -> Any:
        command = super().__getitem__(name)
        if command is None:
            command = self[name] = _load_command(name)
        return command


class _LazyGroup(TyperGroup):
    """The group of all commands, none of which is imported before it is looked up."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = _Commands(dict.fromkeys(COMMANDS))


def _load_command(name: str) -> Any:
    folder = "normfold.cli.commands.onnx_files" if name in ON_ONNX_FILES else "normfold.cli.commands"
    module = import_module(f"{folder}.{name}")
    group: typer.Typer | None = getattr(module, "app", None)
    if group is None:
        group = typer.Typer(add_completion=False, rich_markup_mode="markdown")
        group.command()(getattr(module, name))
    command = typer.main.get_command(group)
    for each in (command, *getattr(command, "commands", {}).values()):
        for parameter in each.params:
            _show_default_inline(parameter)
    return command


def _show_default_inline(parameter: Any) -> None:
    """Show a default that is given as text behind the help, in the form of one that is a value.

    Typer puts such a text into parentheses, on a line of its own.
    """
    if isinstance(text := getattr(parameter, "show_default", None), str) and parameter.help:
        parameter.help, parameter.show_default = f"{parameter.help} [default: {text}]", False


app = typer.Typer(
    name="normfold",
    cls=_LazyGroup,
    help=(
        "Train batch-normalised networks, fold BatchNormalization while exporting to ONNX, verify the fold, "
        "serve the result."
    ),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(requested: bool) -> None:
    if requested:
        from normfold import __version__

        typer.echo(f"normfold {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None: ...


def main() -> None:
    """Run the command line; turn every error that a user can act on into one sentence and an exit code.

    SIGTERM unwinds like an error, so that what is half-written is removed; `serve` and `train` have their own handlers.
    """
    open_closed_streams()
    _handle_signals()
    try:
        app()
    except NormfoldError as error:
        _fail(error.on_command_line(OPTIONS))
        raise SystemExit(error.exit_code) from None
    except Exception:  # noqa: BLE001 -- whatever it is, it must not look like a failed check
        import logging
        import traceback

        logging.shutdown()  # lines of the log that wait are written before
        traceback.print_exc()
        _fail("This is a fault of Normfold; please report it with the lines above.")
        raise SystemExit(INTERNAL_FAULT) from None


def _handle_signals() -> None:
    if sys.argv[1:2] == ["serve"]:
        exit_at_once()
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # by normfold.cli.entry
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _fail(sentence: str) -> None:
    from normfold.display.terminal.console import fail

    fail(sentence)
