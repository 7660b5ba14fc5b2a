"""`normfold repository`: the versions of a repository on disk, while a service may be running.

The base install is enough, because no network is opened. A rollback publishes a complete version and a deletion first
renames the folder, so that a running service only ever finds complete versions.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from normfold._shared.paths import REPOSITORY
from normfold.cli.completion import complete_model, complete_version
from normfold.cli.triton_commands import import_, triton_config
from normfold.contract.errors import InputError
from normfold.display.terminal.console import err, out, print_json, warn
from normfold.display.terminal.repository import (
    describe_model,
    problem_lines,
    removal_table,
    size_text,
    version_table,
)

if TYPE_CHECKING:
    from normfold.export.repository.versions import ModelFolder

app = typer.Typer(
    name="repository",
    help="List, check, copy, roll back, delete and prune the versions in a repository of models; from Triton and back.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
)

app.command("import")(import_)
app.command("triton-config")(triton_config)

Repository = Annotated[Path, typer.Option(envvar="NORMFOLD_REPOSITORY", help="Folder of models.")]
OneOrAll = Annotated[
    str | None,
    typer.Argument(help="One model; all of them if not given.", metavar="NAME", autocompletion=complete_model),
]
Name = Annotated[str, typer.Argument(help="The model.", metavar="NAME", autocompletion=complete_model)]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation; required without a terminal.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.command("list")
def list_(
    name: OneOrAll = None,
    repository: Repository = Path(REPOSITORY),
    verify: Annotated[bool, typer.Option("--verify", "--check", help="Read every file and verify its sha256.")] = False,
    as_json: AsJson = False,
) -> None:
    """List every version of every model, and what is wrong with it.

    Without `--verify` the command checks only that files exist. All other commands and the service also verify their
    contents.

    Example: `normfold repository list digits --verify`
    """
    models = _find(repository, name, contents=verify)
    if as_json:
        print_json({"repository": str(repository), "models": [describe_model(model) for model in models.values()]})
        return
    if not models:
        out.print(f"There are no models in {str(repository)!r}.", markup=False)
        return
    if any(model.versions for model in models.values()):
        out.print(version_table(models.values(), out.width))
    for line in problem_lines(models.values()):
        out.print(line, style="yellow", markup=False)


@app.command()
def check(
    name: OneOrAll = None,
    repository: Repository = Path(REPOSITORY),
    as_json: AsJson = False,
) -> None:
    """Read every file of every version, and verify its sha256; if one is not what was exported, the exit code is 1.

    A version that cannot answer for another reason counts as well; what interrupted exports and deletions left behind
    does not.

    Example: `normfold repository check digits`
    """
    models = _find(repository, name, contents=True).values()
    wrong = sum(
        (model.fault is not None) + sum(one.problem is not None for one in model.versions.values()) for model in models
    )
    if as_json:
        described = [describe_model(model) for model in models]
        print_json({"repository": str(repository), "is_right": not wrong, "models": described})
    else:
        for line in problem_lines(models):
            out.print(line, style="yellow", markup=False)
        right = sum(one.problem is None for model in models for one in model.versions.values())
        out.print(f"{_count(right, 'version')} as exported, {wrong} not.", markup=False)
    if wrong:
        raise typer.Exit(1)


@app.command("copy")
def copy_(
    name: Name,
    source: Annotated[
        Path, typer.Argument(help="The folder of a version, in a backup or another repository.", metavar="FROM")
    ],
    repository: Repository = Path(REPOSITORY),
    as_json: AsJson = False,
) -> None:
    """Copy a version from another folder: publish it as a new, highest version of a model.

    The files are checked against their sha256 sums first; if one is damaged, nothing is written and the exit code is 1.
    A folder that is copied by hand keeps its old number in its manifest, and is refused under another one.

    Example: `normfold repository copy digits backup/digits/2`
    """
    from normfold.export.repository.copies import copy_version

    with err.status("reading the version") as status:
        path, manifest = copy_version(repository, name, source, progress=status.update)
    if as_json:
        print_json({"name": name, "version": manifest.version, "copy_of": manifest.copy_of, "bundle": str(path)})
        return
    out.print(f"{name}/{manifest.version} is a copy of {str(source)!r}.", markup=False, soft_wrap=True)


@app.command()
def rollback(
    name: Name,
    to: Annotated[
        int | None,
        typer.Option(help="The version to go back to; the one before the newest if not given."),
    ] = None,
    repository: Repository = Path(REPOSITORY),
    as_json: AsJson = False,
) -> None:
    """Return to an earlier version: publish a copy of it as a new, highest version.

    No version is changed or deleted: rolling back once more undoes it. The files are checked against their sha256
    sums first; if one is damaged, nothing is written and the exit code is 1. They are hard-linked where the file
    system supports it, so that the copy takes no disk space.

    Example: `normfold repository rollback digits --to 3`
    """
    from normfold.export.repository.rollback import roll_back

    with err.status("reading the repository") as status:
        made = roll_back(repository, name, to, progress=status.update)
    manifest = made.manifest
    if as_json:
        record = {"name": name, "version": manifest.version, "copy_of": manifest.copy_of}
        print_json({**record, "bundle": str(made.path), "linked": made.is_linked})
        return
    how = "its files hard-linked" if made.is_linked else "its files copied"
    out.print(f"{name}/{manifest.version} is a copy of {name}/{manifest.copy_of}, {how}.", markup=False)


@app.command()
def delete(
    name: Name,
    versions: Annotated[
        list[int], typer.Argument(help="The versions to delete.", metavar="VERSION…", autocompletion=complete_version)
    ],
    last: Annotated[bool, typer.Option("--last", help="Delete even if no version remains that can be served.")] = False,
    yes: Yes = False,
    repository: Repository = Path(REPOSITORY),
    as_json: AsJson = False,
) -> None:
    """Delete versions of a model. A service that polls unloads them once others answer.

    Asks for confirmation; if the answer is no, the exit code is 1. `normfold repository prune` finishes interrupted
    deletions.

    Example: `normfold repository delete digits 1 2`
    """
    from normfold.export.repository.removal import choose_versions, freed_bytes, remove
    from normfold.export.repository.versions import find_model

    with err.status("reading the versions"):
        removal = choose_versions(find_model(repository, name, contents=True), versions, last=last)
    chosen = [version.number for version in removal.versions]
    freed = freed_bytes(removal.folders)
    if (newest := max(removal.model.versions)) in chosen:
        warn(f"{name}/{newest} is the newest, and a later export reuses its number; a rollback would keep it.")
    _ask(f"Delete {', '.join(f'{name}/{number}' for number in chosen)} and free {size_text(freed)}?", yes)
    remove(removal)
    if as_json:
        print_json({"name": name, "deleted": chosen, "freed_bytes": freed})
        return
    out.print(_done(_count(len(chosen), "version"), freed), markup=False)


@app.command()
def prune(
    keep: Annotated[int, typer.Option(min=1, help="Number of versions of each model to keep: the highest.")],
    name: OneOrAll = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be deleted, and delete nothing.")
    ] = False,
    yes: Yes = False,
    repository: Repository = Path(REPOSITORY),
    as_json: AsJson = False,
) -> None:
    """Delete all but the highest versions of each model, and the remains of interrupted exports and deletions.

    --keep counts only versions without a problem; a version with a problem is deleted once all kept versions are
    higher. VERSION.partial, the folder of an export in progress, is deleted when nothing in it has changed for an hour.
    A file that a kept version shares (after a rollback) frees nothing.

    Example: `normfold repository prune --keep 3 --dry-run`
    """
    from normfold.export.repository.removal import choose_old, freed_bytes, remove
    from normfold.export.repository.versions import find_model, find_models

    with err.status("reading the versions"):
        found = find_models(repository, contents=True) if name is None else {name: find_model(repository, name, True)}
    models = list(found.values())
    for model in models:
        if model.fault is not None:
            warn(str(model.fault))
    removals = [removal for model in models if (removal := choose_old(model, keep)).folders]
    folders = [folder for removal in removals for folder in removal.folders]
    freed = freed_bytes(folders)
    if folders and not as_json:
        out.print(removal_table(removals))
    what = _count(len(folders), "folder")
    if folders and not dry_run:
        _ask(f"Delete {what} and free {size_text(freed)}?", yes)
        for removal in removals:
            remove(removal)
    if as_json:
        paths = [str(folder.relative_to(repository)) for folder in folders]
        print_json({"deleted": paths, "freed_bytes": freed, "dry_run": dry_run})
    elif not folders:
        out.print("There is nothing to delete.")
    elif dry_run:
        out.print(f"Nothing was deleted; {what} would be deleted, {size_text(freed)} freed.", markup=False)
    else:
        out.print(_done(what, freed), markup=False)


def _find(repository: Path, name: str | None, contents: bool) -> dict[str, ModelFolder]:
    """Return the models of a repository, or the one of that name, by name.

    Raises:
        NoModelError: there is no model of that name.
    """
    from normfold.export.errors import NoModelError
    from normfold.export.repository.versions import find_models

    with err.status("reading the versions"):
        models = find_models(repository, contents=contents)
    if name is None:
        return models
    if name not in models:
        raise NoModelError(repository, name, list(models))
    return {name: models[name]}


def _ask(question: str, yes: bool) -> None:
    """Ask before something is deleted, unless --yes was passed.

    Raises:
        InputError: standard input is not a terminal.
        Exit: the answer is no.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise InputError("Standard input is not a terminal, so nothing was deleted; pass --yes to confirm.")
    err.print(f"{question} [y/N]", end=" ", markup=False)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        err.print("Nothing was deleted.")
        raise typer.Exit(1)


def _done(what: str, freed: int) -> str:
    return f"{what} deleted, {size_text(freed)} freed."


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'s' * (number != 1)}"
