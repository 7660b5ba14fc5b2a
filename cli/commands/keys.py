"""`normfold keys`: the API keys of the service. A key is printed once, on standard output, and stored nowhere."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from normfold.display.terminal.console import err, out, print_json

if TYPE_CHECKING:
    from normfold.service.auth.key_file import Key

_COLOURS = {"active": "green", "expired": "yellow", "revoked": "bright_black"}

app = typer.Typer(
    name="keys",
    help="Create, list, rotate and revoke the API keys that `normfold serve --keys FILE` requires.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
)


class _Scope(StrEnum):
    INFER = "infer"
    ADMIN = "admin"
    METRICS = "metrics"


File = Annotated[
    Path, typer.Option("--keys", envvar="NORMFOLD_KEYS", help="Key file.", metavar="FILE", show_default=False)
]
Identity = Annotated[str, typer.Argument(help="Id or name of a key, as list shows them.", metavar="ID|NAME")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Name of the client, for the access log.", metavar="NAME")],
    file: File,
    scope: Annotated[
        list[_Scope] | None,
        typer.Option(
            metavar="SCOPE",
            help="Repeatable. infer: run models and describe them; admin: load and unload them, read samples; "
            "metrics: read metrics, statistics and drift.",
            show_default="infer",
        ),
    ] = None,
    rate: Annotated[float | None, typer.Option(help="Requests a second for the key.", show_default="no limit")] = None,
    burst: Annotated[
        int | None, typer.Option(min=1, help="Requests at once for the key.", show_default="the rate")
    ] = None,
    expires_in_days: Annotated[
        int | None, typer.Option(min=1, max=36_500, help="Days until the key expires.", show_default="never")
    ] = None,
    as_json: Json = False,
) -> None:
    """Create a key and print it once: the file keeps only its hash. The file is created if it does not exist.

    Example: `normfold keys create ci --keys keys.json --scope infer --rate 50`
    """
    from normfold.service.auth.key_admin import create_key

    now = datetime.now(UTC).replace(microsecond=0)
    expires = now + timedelta(days=expires_in_days) if expires_in_days is not None else None
    scopes = [one.value for one in scope or [_Scope.INFER]]
    key, sent = create_key(file, name, scopes, rate=rate, burst=burst, expires=expires)
    _show_once(key, sent, file, as_json, "A running service accepts it within about a second.")


@app.command("list")
def list_keys(file: File, as_json: Json = False) -> None:
    """List all keys, revoked ones included.

    Example: `normfold keys list --keys keys.json`
    """
    from normfold.service.auth.key_file import read_keys

    found = read_keys(file)
    if as_json:
        print_json({"keys": [_record(key) for key in found]})
    else:
        out.print(_table(found))


@app.command()
def rotate(
    identity: Identity,
    file: File,
    grace_minutes: Annotated[
        int, typer.Option(min=0, max=525_600, help="Minutes for which the old secret stays valid.")
    ] = 0,
    as_json: Json = False,
) -> None:
    """Give a key a new secret and print the new key once. Without a grace period the old secret is invalid at once.

    Example: `normfold keys rotate ci --keys keys.json --grace-minutes 60`
    """
    from normfold.service.auth.key_admin import rotate_key

    key, sent = rotate_key(file, identity, timedelta(minutes=grace_minutes))
    old = f"stays valid until {key.former.until:%Y-%m-%d %H:%M:%S} UTC" if key.former else "ends within about a second"
    _show_once(key, sent, file, as_json, f"The old secret {old}.")


@app.command()
def revoke(identity: Identity, file: File, as_json: Json = False) -> None:
    """Revoke a key permanently.

    Example: `normfold keys revoke ci --keys keys.json`
    """
    from normfold.service.auth.key_admin import revoke_key

    key = revoke_key(file, identity)
    if as_json:
        print_json(_record(key))
    else:
        sentence = f"Key {key.name!r} ({key.id}) is revoked; a running service rejects it within about a second."
        err.print(sentence, markup=False)


def _show_once(key: Key, sent: str, file: Path, as_json: bool, note: str) -> None:
    """Print the key alone on standard output, so that a script can read it, and the rest on standard error."""
    if as_json:
        print_json(_record(key) | {"key": sent})
        return
    typer.echo(sent)
    sentence = f"The key {key.name!r}, for {', '.join(key.scopes)}: store it now, {str(file)!r} has only its hash."
    err.print(f"{sentence} {note}", markup=False)


def _record(key: Key) -> dict[str, Any]:
    """Return a key as plain types for JSON, without hashes."""
    record = key.model_dump(mode="json", exclude={"sha256", "former"})
    former_until = key.former.until.isoformat().replace("+00:00", "Z") if key.former else None
    return record | {"state": key.state(datetime.now(UTC)), "former_until": former_until}


def _table(found: tuple[Key, ...]) -> Table:
    """Return a table with a row for each key."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("id", "name", "scopes"):
        table.add_column(name, overflow="fold")
    table.add_column("rate", justify="right")
    for name in ("created", "expires", "state"):
        table.add_column(name, no_wrap=True)
    for key in found:
        state = key.state(datetime.now(UTC))
        table.add_row(
            key.id,
            Text(key.name),
            ", ".join(key.scopes),
            f"{key.rate:g}/s" if key.rate is not None else "–",
            f"{key.created:%Y-%m-%d}",
            f"{key.expires:%Y-%m-%d}" if key.expires is not None else "–",
            Text(state, style=_COLOURS[state]),
        )
    return table
