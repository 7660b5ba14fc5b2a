"""The option --repository of commands whose source may name its folder of models itself."""

from __future__ import annotations

from pathlib import Path

import typer


def explicit_repository(context: typer.Context, repository: Path | None, is_named_by_source: bool) -> Path | None:
    """Return the folder of models; None where it is that of the environment or the default, and the source names one.

    Args:
        context: of the command, whose option is called `repository`.
        repository: its value.
        is_named_by_source: the source is a file, or REPOSITORY/NAME. An explicit option is an error then, which the
            Python API raises.
    """
    given_by = context.get_parameter_source("repository")
    is_explicit = given_by is not None and given_by.name == "COMMANDLINE"
    return None if is_named_by_source and not is_explicit else repository


def names_repository(source: str | Path) -> bool:
    """Return whether a source is a file, or names the folder of a model's repository too."""
    return str(source).endswith(".onnx") or len(Path(source).parts) > 1
