"""The `normfold` command.

Exit codes: 0 done; 1 a check said no; 2 wrong use or input; 3 the environment. A command's own module is small and
imports the rooms that it needs inside its function, so that `normfold serve` never pays for torch or onnx.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated

import typer

from cli.console import fail
from cli.export import export
from cli.fold import fold
from cli.inspect import inspect
from cli.serve import serve
from cli.train import train
from cli.verify import verify
from contract.errors import NormfoldError

app = typer.Typer(
    name="normfold",
    help="Fit batch-normalised networks, fold them while exporting to ONNX, prove the fold, serve the result.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (train, export, fold, inspect, verify, serve):
    app.command()(command)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"normfold {version('normfold')}")
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None: ...


def main() -> None:
    """Run the command line; turn every error that a user can act on into one sentence and an exit code."""
    try:
        app()
    except NormfoldError as error:
        fail(str(error))
        raise SystemExit(error.exit_code) from None
