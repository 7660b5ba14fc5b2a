"""`normfold keys`, and what `normfold serve` does with the file."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from normfold.service.auth.key_store import KeyStore
from tests.support.command import RunCommand, run_serve, serving

FILE = ("--keys", "keys.json")


@pytest.fixture(autouse=True)
def _no_file_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NORMFOLD_KEYS", raising=False)


def opens(sent: str) -> bool:
    return KeyStore(Path("keys.json")).authenticate(sent.encode())[1]


def create(normfold: RunCommand, name: str, *options: str) -> tuple[str, str]:
    """Create a key: (id, what a client sends)."""
    code, out, err = normfold("keys", "create", name, *FILE, *options)
    assert code == 0, err
    return out.split("_")[1], out.strip()


def test_create_prints_the_key_alone_on_standard_output(normfold: RunCommand) -> None:
    code, out, err = normfold("keys", "create", "ci", *FILE)
    assert code == 0
    assert out.count("\n") == 1
    assert opens(out.strip())
    assert out.strip() not in err
    assert err.startswith("The key 'ci', for infer: store it now, 'keys.json' has only its hash. ")


def test_create_takes_scopes_rate_and_end(normfold: RunCommand) -> None:
    options = ("--scope", "admin", "--scope", "metrics", "--rate", "2.5", "--burst", "7", "--expires-in-days", "30")
    code, out, _ = normfold("keys", "create", "boss", *FILE, *options, "--json")
    assert code == 0
    record = json.loads(out)
    assert opens(record.pop("key"))
    assert record.pop("expires") > record.pop("created")
    assert record.pop("id")
    assert record == {
        "name": "boss",
        "scopes": ["admin", "metrics"],
        "rate": 2.5,
        "burst": 7,
        "revoked": None,
        "state": "active",
        "former_until": None,
    }


def test_the_file_may_be_named_by_the_environment(normfold: RunCommand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NORMFOLD_KEYS", "keys.json")
    assert normfold("keys", "create", "ci")[0] == 0
    assert Path("keys.json").is_file()
    assert "ci" in normfold("keys", "list")[1]


def test_list_shows_every_key_and_no_hash(normfold: RunCommand) -> None:
    one, _ = create(normfold, "one", "--rate", "50")
    two, _ = create(normfold, "[red]two", "--scope", "metrics")
    normfold("keys", "revoke", two, *FILE)
    code, out, _ = normfold("keys", "list", *FILE)
    assert code == 0
    head, first, second = (line.split() for line in out.splitlines())
    assert head == ["id", "name", "scopes", "rate", "created", "expires", "state"]
    assert (first[:4], first[-1]) == ([one, "one", "infer", "50/s"], "active")
    assert (second[:4], second[-1]) == ([two, "[red]two", "metrics", "–"], "revoked")
    listed = json.loads(normfold("keys", "list", *FILE, "--json")[1])["keys"]
    assert [(key["id"], key["state"]) for key in listed] == [(one, "active"), (two, "revoked")]
    assert not any("sha256" in key for key in listed)


def test_rotate_ends_the_old_secret_or_lets_it_go_on(normfold: RunCommand) -> None:
    identity, first = create(normfold, "ci")
    code, second, err = normfold("keys", "rotate", identity, *FILE)
    assert code == 0
    assert "The old secret ends within about a second." in err
    assert (opens(first), opens(second.strip())) == (False, True)
    code, out, _ = normfold("keys", "rotate", identity, *FILE, "--grace-minutes", "60", "--json")
    third = json.loads(out)
    assert third["former_until"] > third["created"]
    assert (opens(second.strip()), opens(third["key"])) == (True, True)
    err = normfold("keys", "rotate", identity, *FILE, "--grace-minutes", "60")[2]
    assert "The old secret stays valid until 20" in err


def test_revoke_ends_a_key(normfold: RunCommand) -> None:
    identity, sent = create(normfold, "ci")
    code, out, err = normfold("keys", "revoke", identity, *FILE)
    assert (code, out) == (0, "")
    assert err.startswith(f"Key 'ci' ({identity}) is revoked")
    assert not opens(sent)
    code, out, _ = normfold("keys", "revoke", "ci", *FILE, "--json")
    assert (code, json.loads(out)["state"]) == (0, "revoked")


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("create", "ci", *FILE), 2, "has an active key named 'ci'"),
        (("create", "x", *FILE, "--scope", "root"), 2, "root"),
        (("create", "x", *FILE, "--rate", "0"), 2, "was not changed: rate: "),
        (("create", "x", *FILE, "--burst", "3"), 2, "a burst needs a rate"),
        (("create", "x", *FILE, "--expires-in-days", "0"), 2, "--expires-in-days"),
        (("create", "x"), 2, "--keys"),
        (("create", "x", "--keys", "none/keys.json"), 3, "cannot be written: no such file or directory"),
        (("list", "--keys", "none.json"), 2, "'none.json' does not exist; 'normfold keys create' makes it"),
        (("rotate", "00000000", *FILE), 2, "has no key with the id or name '00000000'"),
        (("rotate", "00000000", *FILE, "--grace-minutes", "-1"), 2, "--grace-minutes"),
        (("revoke", "00000000", *FILE), 2, "has no key with the id or name '00000000'"),
        (("revoke", "00000000", "--keys", "none.json"), 2, "does not exist"),
    ],
)
def test_wrong_use_changes_nothing(normfold: RunCommand, arguments: tuple[str, ...], code: int, says: str) -> None:
    create(normfold, "ci")
    before = Path("keys.json").read_bytes()
    found, out, err = normfold("keys", *arguments)
    assert (found, out) == (code, "")
    assert says in err
    assert Path("keys.json").read_bytes() == before
    assert {path.name for path in Path().iterdir()} == {"keys.json", ".keys.json.lock"}


@pytest.mark.slow
def test_serve_takes_the_file_and_says_that_keys_are_needed(normfold: RunCommand, tmp_path: Path) -> None:
    _, sent = create(normfold, "ci")
    with serving(tmp_path / "none", "--keys", str(tmp_path / "keys.json"), "--host", "0.0.0.0") as (process, client):
        assert client.get("/v2").status_code == 401
        assert client.get("/v2", headers={"Authorization": f"Bearer {sent}"}).status_code == 200
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=20)
        assert process.returncode == 0
    assert "Requests need a key: " in log
    assert "Anyone who reaches" not in log
    assert sent.split("_")[2] not in log


@pytest.mark.slow
@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1"])
def test_serve_without_keys_warns_once_where_others_reach_it(tmp_path: Path, host: str) -> None:
    with serving(tmp_path / "none", "--host", host) as (process, client):
        assert client.get("/v2").status_code == 200
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=20)
    warnings = [
        line["message"] for line in map(json.loads, log.splitlines()) if "Anyone who reaches" in line["message"]
    ]
    assert len(warnings) == (1 if host == "0.0.0.0" else 0)


@pytest.mark.slow
@pytest.mark.parametrize("text", [None, "{"])
def test_serve_does_not_start_without_the_configured_key_file(tmp_path: Path, text: str | None) -> None:
    file = tmp_path / "keys.json"
    if text is not None:
        file.write_text(text)
    ended = run_serve("--port", "0", "--keys", str(file))
    assert ended.returncode == 2
    assert ended.stderr.startswith(f"error: The key file {str(file)!r} ")
    assert len(ended.stderr.splitlines()) == 1
