"""The key file, its changes, the key store of a running service, and rate limits."""

from __future__ import annotations

import hashlib
import json
import logging
import stat
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from normfold.service.auth import key_store
from normfold.service.auth.key_admin import create_key, revoke_key, rotate_key
from normfold.service.auth.key_file import read_keys, split_key
from normfold.service.auth.key_store import KeyStore
from normfold.service.auth.rate_limit import RateLimiter
from normfold.service.errors import KeysError, KeysUnwritableError
from tests.support.waiting import wait_for

PAST = datetime(2020, 1, 1, tzinfo=UTC)
STAY_VALID = "The keys that were read before stay valid."


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def change(file: Path, **fields: Any) -> None:
    """Overwrite fields of the first key, unchecked."""
    record = json.loads(file.read_text())
    record["keys"][0].update(fields)
    file.write_text(json.dumps(record))


def opens(store: KeyStore, sent: str) -> bool:
    return store.authenticate(sent.encode())[1]


def test_key_file_holds_the_hash_of_a_secret_only(file: Path) -> None:
    key, sent = create_key(file, "ci", ("infer", "infer", "metrics"), rate=2.5)
    identity, secret = split_key(sent.encode())
    assert sent == f"nf_{identity}_{secret.decode()}"
    assert len(bytes.fromhex(secret.decode())) == 32
    assert read_keys(file) == (key,)
    assert (key.id, key.name, key.scopes, key.rate) == (identity, "ci", ("infer", "metrics"), 2.5)
    assert key.sha256 == hashlib.sha256(secret).hexdigest()
    assert secret.decode() not in file.read_text()


def test_key_file_is_readable_for_its_owner_only(file: Path) -> None:
    create_key(file, "one", ("infer",))
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    file.chmod(0o644)
    create_key(file, "two", ("infer",))
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_full_disk_leaves_the_key_file_unchanged_and_no_temporary_file(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create_key(file, "one", ("infer",))
    before, beside = file.read_bytes(), sorted(file.parent.iterdir())

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(KeysUnwritableError, match="cannot be written: no space left on device"):
            create_key(file, "two", ("infer",))
    assert (file.read_bytes(), sorted(file.parent.iterdir())) == (before, beside)


def test_symbolic_link_to_the_key_file_is_kept(file: Path) -> None:
    create_key(file, "one", ("infer",))
    link = file.with_name("link.json")
    link.symlink_to(file)
    create_key(link, "two", ("infer",))
    assert link.is_symlink()
    assert [key.name for key in read_keys(file)] == ["one", "two"]


def test_concurrent_changes_are_all_kept(file: Path) -> None:
    together, names = threading.Barrier(8), {f"{thread}-{number}" for thread in range(8) for number in range(4)}

    def create(thread: int) -> None:
        together.wait(timeout=20)
        for number in range(4):
            create_key(file, f"{thread}-{number}", ("infer",))

    threads = [threading.Thread(target=create, args=(thread,)) for thread in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    assert {key.name for key in read_keys(file)} == names


def test_name_is_unique_among_active_keys(file: Path) -> None:
    key, _ = create_key(file, "ci", ("infer",))
    with pytest.raises(KeysError, match="has an active key named 'ci'"):
        create_key(file, "ci", ("admin",))
    revoke_key(file, key.id)
    create_key(file, "ci", ("admin",), expires=PAST)
    create_key(file, "ci", ("infer",))
    assert [one.state(datetime.now(UTC)) for one in read_keys(file)] == ["revoked", "expired", "active"]


@pytest.mark.parametrize(
    ("name", "scopes", "limits", "says"),
    [
        ("", ["infer"], {}, "name: "),
        ("a\nb", ["infer"], {}, "name: it has unprintable characters"),
        (" a", ["infer"], {}, "spaces around it"),
        ("x" * 65, ["infer"], {}, "name: "),
        ("a", [], {}, "scopes: "),
        ("a", ["root"], {}, "scopes.0: "),
        ("a", ["infer"], {"rate": 0}, "rate: "),
        ("a", ["infer"], {"rate": float("inf")}, "rate: "),
        ("a", ["infer"], {"rate": 1, "burst": 0}, "burst: "),
        ("a", ["infer"], {"burst": 1}, "a burst needs a rate"),
    ],
)
def test_invalid_key_is_not_created(
    file: Path, name: str, scopes: list[str], limits: dict[str, Any], says: str
) -> None:
    with pytest.raises(KeysError, match=f"was not changed: .*{says}"):
        create_key(file, name, scopes, **limits)
    assert not file.exists()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "does not exist; 'normfold keys create' makes it"),
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "has no schema_version"),
        ('{"schema_version": 2}', "has schema version 2, newer than the 1 read here"),
        ('{"schema_version": 0}', "is wrong: schema_version: "),
        ('{"schema_version": 1, "kees": []}', "is wrong: kees: Extra inputs"),
        ('{"schema_version": 1, "keys": [{"id": "x"}]}', "is wrong: keys.0.id: "),
    ],
)
def test_invalid_key_file_is_named_with_its_problem(file: Path, text: str | None, says: str) -> None:
    if text is not None:
        file.write_text(text)
    with pytest.raises(KeysError, match=f"^The key file '.*keys.json' {says}"):
        read_keys(file)
    with pytest.raises(KeysError, match=says):
        KeyStore(file)
    with pytest.raises(KeysError, match=says):
        revoke_key(file, "00000000")
    assert (file.read_text() if file.exists() else None) == text


def test_duplicate_ids_are_rejected(file: Path) -> None:
    create_key(file, "one", ("infer",))
    record = json.loads(file.read_text())
    file.write_text(json.dumps(record | {"keys": record["keys"] * 2}))
    with pytest.raises(KeysError, match="keys: two keys have the same id"):
        read_keys(file)


def test_key_store_finds_a_key_by_its_exact_text_only(file: Path) -> None:
    key, sent = create_key(file, "ci", ("infer",))
    _, other = create_key(file, "other", ("infer",))
    store = KeyStore(file)
    assert store.authenticate(sent.encode()) == (key, True)
    secret = sent.rpartition("_")[2]
    wrong = "1" if sent[-1] == "0" else "0"
    for near in [
        *("", "nf", "nf_", f"nf_{key.id}", f"nf_{key.id}_", secret, key.id, key.sha256, f"nf_{key.id}_{key.sha256}"),
        *(sent[:-1], sent + "0", sent[:-1] + wrong, sent.upper(), f"xf{sent[2:]}", f"nf_00000000_{secret}"),
        *(f"nf__{secret}", f"nf_{key.id}_{other.rpartition('_')[2]}", f"\xff_{key.id}_{secret}"),
    ]:
        assert store.authenticate(near.encode("latin-1")) == (None, False), near


def test_digests_are_compared_for_unknown_ids_too(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key, sent = create_key(file, "ci", ("infer",))
    store, compared = KeyStore(file), []

    def compare(one: str, other: str) -> bool:
        compared.append((len(one), len(other)))
        return one == other

    monkeypatch.setattr("hmac.compare_digest", compare)
    for presented in (sent, f"nf_{key.id}_wrong", "nf_00000000_wrong", ""):
        compared.clear()
        assert opens(store, presented) is (presented == sent)
        assert compared == [(64, 64), (64, 64)]


def test_expired_or_revoked_key_is_found_and_inactive(file: Path) -> None:
    late, sent_late = create_key(file, "late", ("infer",), expires=PAST)
    soon, sent_soon = create_key(file, "soon", ("infer",), expires=datetime.now(UTC) + timedelta(days=1))
    gone, sent_gone = create_key(file, "gone", ("infer",))
    gone = revoke_key(file, gone.id)
    store = KeyStore(file)
    assert store.authenticate(sent_late.encode()) == (late, False)
    assert store.authenticate(sent_soon.encode()) == (soon, True)
    assert store.authenticate(sent_gone.encode()) == (gone, False)
    assert revoke_key(file, gone.id) == gone


def test_rotated_key_keeps_its_old_secret_for_the_grace_period_only(file: Path) -> None:
    key, first = create_key(file, "ci", ("infer",), rate=3)
    rotated, second = rotate_key(file, key.id, timedelta(minutes=5))
    assert (rotated.id, rotated.name, rotated.rate) == (key.id, "ci", 3)
    assert [opens(KeyStore(file), sent) for sent in (first, second)] == [True, True]
    change(file, former={"sha256": key.sha256, "until": "2020-01-01T00:00:00Z"})
    assert [opens(KeyStore(file), sent) for sent in (first, second)] == [False, True]
    _, third = rotate_key(file, key.id)
    assert [opens(KeyStore(file), sent) for sent in (first, second, third)] == [False, False, True]


def test_revoked_key_has_no_grace_period(file: Path) -> None:
    key, first = create_key(file, "ci", ("infer",))
    _, second = rotate_key(file, key.id, timedelta(minutes=5))
    revoke_key(file, key.id)
    assert [opens(KeyStore(file), sent) for sent in (first, second)] == [False, False]


def test_rotation_rejects_unknown_and_inactive_keys(file: Path) -> None:
    gone, _ = create_key(file, "gone", ("infer",))
    late, _ = create_key(file, "late", ("infer",), expires=PAST)
    revoke_key(file, gone.id)
    before = file.read_bytes()
    for identity, says in [
        (gone.id, "is revoked"),
        (late.id, "is expired"),
        ("none", "has no key with the id or name 'none'"),
    ]:
        with pytest.raises(KeysError, match=says):
            rotate_key(file, identity)
    with pytest.raises(KeysError, match="has no key with the id or name"):
        revoke_key(file, "none")
    assert file.read_bytes() == before


def test_key_is_found_by_its_name_where_one_key_has_it(file: Path) -> None:
    first, _ = create_key(file, "ci", ("infer",))
    assert rotate_key(file, "ci")[0].id == first.id
    assert revoke_key(file, "ci").id == first.id
    second, _ = create_key(file, "ci", ("infer",))
    assert revoke_key(file, "ci").id == second.id, "the active one"
    with pytest.raises(KeysError, match=f"has 2 keys named 'ci': {first.id} .revoked., {second.id} .revoked.; give"):
        revoke_key(file, "ci")
    named_like_an_id, _ = create_key(file, first.id, ("infer",))
    assert revoke_key(file, first.id).id == first.id
    assert revoke_key(file, named_like_an_id.id).id == named_like_an_id.id


def test_key_store_reloads_a_changed_file_and_keeps_its_keys_if_it_is_invalid(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    key, first = create_key(file, "ci", ("infer",))
    store = KeyStore(file)
    _, second = rotate_key(file, key.id)
    assert [opens(store, sent) for sent in (first, second)] == [True, False]  # not polled yet
    store.reload_if_changed()
    assert [opens(store, sent) for sent in (first, second)] == [False, True]
    whole = file.read_text()
    for _ in range(2):  # logged once, not at each poll
        file.write_text("{") if file.read_text() != "{" else None
        store.reload_if_changed()
    file.unlink()
    store.reload_if_changed()
    assert opens(store, second)
    file.write_text(whole)
    revoke_key(file, key.id)
    store.reload_if_changed()
    assert not opens(store, second)
    named = f"The key file {str(file)!r} "
    messages = [(record.levelname, record.getMessage().removeprefix(named)) for record in caplog.records]
    assert messages == [
        ("INFO", f"The keys were read again: {str(file)!r} has 1 active."),
        ("ERROR", f"is not JSON; it is written by 'normfold keys', not by hand. {STAY_VALID}"),
        ("ERROR", f"does not exist; 'normfold keys create' makes it. {STAY_VALID}"),
        ("INFO", f"The keys were read again: {str(file)!r} has 0 active."),
    ]
    assert not any(sent.rpartition("_")[2] in caplog.text for sent in (first, second))


def test_key_store_keeps_polling_after_an_unexpected_error(
    file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    key, sent = create_key(file, "ci", ("infer",))
    store, read, failed = KeyStore(file), read_keys, threading.Event()

    def fail_once(path: Path) -> Any:
        if not failed.is_set():
            failed.set()
            raise ZeroDivisionError("planted")
        return read(path)

    monkeypatch.setattr(key_store, "POLL_INTERVAL_S", 0.01)
    monkeypatch.setattr(key_store, "read_keys", fail_once)
    store.start()
    try:
        rotate_key(file, key.id)
        assert failed.wait(timeout=20)
        revoke_key(file, key.id)
        wait_for(lambda: not opens(store, sent))
    finally:
        store.close()
    assert "The key file cannot be polled" in caplog.text


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_token_bucket_grants_its_burst_then_its_rate() -> None:
    clock = Clock()
    limiter = RateLimiter(clock=clock)
    assert [limiter.acquire("a", 2, 3) for _ in range(5)] == [0, 0, 0, 0.5, 0.5]
    assert limiter.acquire("b", 2, 3) == 0  # of another name
    clock.now += 0.25
    assert limiter.acquire("a", 2, 3) == 0.25
    clock.now += 0.25
    assert [limiter.acquire("a", 2, 3) for _ in range(2)] == [0, 0.5]
    clock.now += 1000  # no more than the burst is saved up
    assert [limiter.acquire("a", 2, 3) for _ in range(4)] == [0, 0, 0, 0.5]


def test_share_scales_rate_and_burst_and_grants_at_least_one() -> None:
    limiter = RateLimiter(share=0.25, clock=Clock())
    assert [limiter.acquire("a", 4, 8) for _ in range(3)] == [0, 0, 1]
    assert [limiter.acquire("b", 4, 1) for _ in range(2)] == [0, 1]


def test_default_burst_is_the_rate_of_one_second(file: Path) -> None:
    def max_burst(**limits: Any) -> int:
        return create_key(file, f"{limits}", ("infer",), **limits)[0].max_burst

    assert [max_burst(rate=0.5), max_burst(rate=2.5), max_burst(rate=2.5, burst=7)] == [1, 3, 7]


def test_key_store_reads_a_changed_file_again_until_that_works(
    file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    key, sent = create_key(file, "x", ("infer",))
    store = KeyStore(file)

    def fail(path: Path) -> Any:
        raise KeysError(path, "cannot be read: Too many open files.")

    revoke_key(file, key.id)
    monkeypatch.setattr(key_store, "read_keys", fail)
    for _ in range(3):
        store.reload_if_changed()
    assert opens(store, sent)
    assert caplog.text.count("Too many open files") == 1

    monkeypatch.setattr(key_store, "read_keys", read_keys)
    store.reload_if_changed()
    assert not opens(store, sent)
