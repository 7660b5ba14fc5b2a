"""The `normfold` command.

Exit codes: 0 done; 1 a check said no; 2 wrong use or input; 3 the environment; 70 a fault of ours. A command's own
module is small and imports the rooms that it needs inside its function, so that `normfold serve` never pays for torch
or onnx.
"""

from __future__ import annotations

import signal
import sys
import traceback
from importlib.metadata import version
from typing import Annotated

import typer

from normfold.cli.commands.adapt import adapt
from normfold.cli.commands.audit import audit
from normfold.cli.commands.export import export
from normfold.cli.commands.fold import fold
from normfold.cli.commands.inspect import inspect
from normfold.cli.commands.keys import app as keys
from normfold.cli.commands.repository import app as repository
from normfold.cli.commands.serve import serve
from normfold.cli.commands.study import study
from normfold.cli.commands.train import train
from normfold.cli.commands.verify import verify
from normfold.contract.errors import NormfoldError
from normfold.display.terminal.console import fail

INTERNAL_FAULT = 70
"""Exit code of an error that no command foresaw: not 1, which says that a check said no."""

app = typer.Typer(
    name="normfold",
    help="Fit batch-normalised networks, fold them while exporting to ONNX, prove the fold, serve the result.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (train, audit, export, fold, inspect, verify, adapt, serve, study):
    app.command()(command)
app.add_typer(repository)
app.add_typer(keys)


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
    """Run the command line; turn every error that a user can act on into one sentence and an exit code.

    SIGTERM unwinds like an error, so that what is half-written is removed; `serve` and `train` have their own handlers.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        app()
    except NormfoldError as error:
        fail(str(error))
        raise SystemExit(error.exit_code) from None
    except Exception:  # noqa: BLE001 -- whatever it is, it must not look like a check that said no
        traceback.print_exc()
        fail("This is a fault of Normfold; please report it with the lines above.")
        raise SystemExit(INTERNAL_FAULT) from None
