"""`normfold repository import` and `normfold repository triton-config`: from Triton and back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from normfold._shared.paths import REPOSITORY
from normfold.cli.completion import complete_model
from normfold.display.terminal.console import err, out, print_json, warn
from normfold.display.terminal.triton import config_record, import_lines, import_record, import_summary

Repository = Annotated[Path, typer.Option(envvar="NORMFOLD_REPOSITORY", help="Folder of models.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def import_(
    source: Annotated[Path, typer.Argument(help="Triton's model repository.", metavar="TRITON_REPOSITORY")],
    repository: Annotated[
        Path, typer.Option(envvar="NORMFOLD_REPOSITORY", help="Folder of models to write to; created if missing.")
    ] = Path(REPOSITORY),
    model: Annotated[
        list[str] | None, typer.Option("--model", help="Import this model only; repeatable.", metavar="NAME")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Fold and verify in a temporary folder, and write nothing else.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make bundles of the ONNX models of a Triton repository: each version is folded and verified as by export.

    Version numbers are kept, and labels become the card's. What config.pbtxt says and a bundle does not is listed.
    Models of other backends are skipped. If a model fails, no version of it is written, the others are, and the exit
    code is 1, as it is when nothing is there to import. A version that an earlier import has written is left alone.

    Example: `normfold repository import /models/triton --repository model_repository`
    """
    from normfold._shared.packages import require_export

    require_export("normfold repository import")
    from normfold.export.triton.import_repository import Outcome, import_repository

    with err.status("reading the repository") as status:
        models = import_repository(source, repository, model or (), dry_run, progress=status.update)
    if as_json:
        records = [import_record(one) for one in models]
        print_json({"source": str(source), "repository": str(repository), "dry_run": dry_run, "models": records})
    else:
        for one in models:
            style = "yellow" if one.problem else None
            for line in import_lines(one, dry_run):
                out.print(line, style=style, markup=False, soft_wrap=True)
        out.print(import_summary(models) if models else f"There are no models in {str(source)!r}.", markup=False)
    outcomes = {one.outcome for one in models}
    wanted = {Outcome.IMPORTED, Outcome.PRESENT} | (set() if model else {Outcome.SKIPPED})
    if not outcomes <= wanted or not outcomes & {Outcome.IMPORTED, Outcome.PRESENT}:
        raise typer.Exit(1)


def triton_config(
    name: Annotated[
        str | None,
        typer.Argument(help="One model; all of them if not given.", metavar="NAME", autocompletion=complete_model),
    ] = None,
    repository: Repository = Path(REPOSITORY),
    version_policy: Annotated[
        str,
        typer.Option(
            envvar="NORMFOLD_VERSION_POLICY", metavar="all|latest:N|N,N…", help="Versions that Triton loads of a model."
        ),
    ] = "all",
    max_batch_size: Annotated[
        int | None,
        typer.Option(
            envvar="NORMFOLD_MAX_BATCH_SIZE",
            min=1,
            metavar="ROWS",
            help="Maximum rows of one batch, where rows are independent.",
            show_default="64",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write config.pbtxt for models of a repository, so that Triton serves the same folder.

    A label file is written beside it if the model has labels. A config.pbtxt that was not written by normfold is left
    alone, and the exit code is 2. Run it again after a version with other tensors or labels was published.

    Example: `normfold repository triton-config digits`
    """
    from normfold._shared.packages import require_packages

    require_packages("onnx", extra="export", needed_for="normfold repository triton-config")
    from normfold.export.repository.versions import find_model, find_models
    from normfold.export.triton.write_config import MAX_BATCH_SIZE, prepare_config

    with err.status("reading the versions"):
        models = find_models(repository) if name is None else {name: find_model(repository, name)}
    for model in models.values():
        if model.fault is not None:
            raise model.fault
    prepared = [
        prepare_config(model, version_policy, max_batch_size or MAX_BATCH_SIZE)
        for model in models.values()
        if model.versions
    ]
    written = [config.write() for config in prepared]
    if as_json:
        print_json({"repository": str(repository), "models": [config_record(one) for one in written]})
        return
    for one in written:
        for note in one.notes:
            warn(f"{one.name}: {note}")
        out.print(f"{str(one.path)!r} is written.", markup=False, soft_wrap=True)
    if not written:
        out.print(f"There are no models in {str(repository)!r}.", markup=False)
