"""Authorization: what a key gives access to, how often, and what logs say of it."""

from __future__ import annotations

import json
import logging
import re
import socket
from pathlib import Path
from typing import Any

import httpx
import pytest

from normfold.service import app
from normfold.service.app import create_app
from normfold.service.auth import key_store
from normfold.service.auth.key_admin import create_key, revoke_key
from normfold.service.errors import KeysError
from normfold.service.settings import Settings
from tests.support.bundles import BundleWriter
from tests.support.infer_bodies import PICTURE
from tests.support.raw_http import open_client
from tests.support.service import ALLOWED_ORIGIN, AccessLog, KeyedService, StartService, serve_app
from tests.support.waiting import wait_for

LOCKED = {"error": "This needs a key; send a valid one as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'."}

INFER = "/v2/models/digits/infer"


def lines(keys: KeyedService, request_id: str) -> list[dict[str, Any]]:
    """Wait for the access log's line of a request."""
    path, wanted = keys.folder / "access.log", f'"{request_id}"'
    wait_for(lambda: wanted in path.read_text())
    return [json.loads(line) for line in path.read_text().splitlines() if wanted in line]


@pytest.mark.parametrize("path", ["/v2/health/live", "/v2/health/ready", "/docs", "/openapi.json"])
@pytest.mark.parametrize("key", [None, "wrong"])
def test_public_paths_need_no_key(keys: KeyedService, path: str, key: str | None) -> None:
    assert keys.ask(key, "GET", path).status_code == 200


@pytest.mark.parametrize("key", [None, "wrong", "nonsense"])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", INFER),
        ("POST", "/v2/models/none/infer"),
        ("POST", "/v1/models/digits:predict"),
        ("GET", "/v1/models"),
        ("GET", "/v2"),
        ("GET", "/metrics"),
        ("GET", "/v2/models/stats"),
        ("POST", "/v2/repository/models/digits/unload"),
        ("DELETE", "/v2"),
        ("OPTIONS", INFER),
        ("GET", "/nothing"),
        ("GET", "/metrics/"),
        ("GET", "/metrics%0a"),
        ("GET", "//metrics"),
        ("GET", "/%6detrics"),
        ("GET", "/v2/health/..%2f..%2fmetrics"),
        ("GET", "/v2/health/nothing"),
        ("GET", "/docs/oauth2-redirect"),
    ],
)
def test_other_paths_answer_401_without_a_valid_key(
    keys: KeyedService, method: str, path: str, key: str | None
) -> None:
    answer = keys.ask(key, method, path)
    assert answer.status_code == 401
    assert answer.json() == LOCKED
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"]


@pytest.mark.parametrize(
    ("method", "path", "scope", "status"),
    [
        ("POST", INFER, "infer", 200),
        ("POST", "/v2/models/none/infer", "infer", 404),
        ("GET", "/v2/models/digits", "infer", 200),
        ("GET", "/v2/models/digits/config", "infer", 200),
        ("GET", "/v1/models", "infer", 200),
        ("DELETE", "/v1/models", "infer", 405),
        ("POST", "/v2/repository/index", "infer", 200),
        ("GET", "/metrics", "metrics", 200),
        ("GET", "/%6detrics", "metrics", 200),
        ("GET", "/v2/models/stats", "metrics", 200),
        ("GET", "/v2/models/digits/stats", "metrics", 200),
        ("GET", "/v2/models/digits/versions/1/stats", "metrics", 200),
        ("POST", "/v2/repository/models/digits/load", "admin", 403),  # by model_control, not by the key
        ("POST", "/v2/repository/models/digits/unload", "admin", 403),
    ],
)
def test_key_gives_access_to_its_scope_only(
    keys: KeyedService, method: str, path: str, scope: str, status: int
) -> None:
    body = {"json": PICTURE} if path == INFER else {}
    for name in ("infer", "admin", "metrics"):
        answer = keys.ask(name, method, path, **body)
        rejection = {"error": f"This needs a key with the scope {scope!r}."}
        if name == scope:
            assert answer.status_code == status
            assert not answer.headers["content-type"].startswith("application/json") or answer.json() != rejection
        else:
            assert (answer.status_code, answer.json()) == (403, rejection)


@pytest.mark.parametrize("path", ["/nothing", "/metrics/", "/metrics%0a", "//v2", "/v2/health/live%0a"])
def test_unknown_path_is_404_with_a_key(keys: KeyedService, path: str) -> None:
    for name in ("infer", "admin", "metrics"):
        answer = keys.ask(name, "GET", path)
        assert answer.status_code == 404
        assert re.fullmatch(r"There is no path '.*'; GET /docs lists the routes\.", answer.json()["error"])


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Authorization": "Bearer {}"}, 200),
        ({"Authorization": "bEARER   {}"}, 200),
        ({"X-API-Key": "{}"}, 200),
        ({"X-API-Key": "{}", "Authorization": "Basic dTpw"}, 200),
        ({"X-API-Key": "{}", "Authorization": "Bearer wrong"}, 401),
        ({"Authorization": "Basic {}"}, 401),
        ({"Authorization": "{}"}, 401),
        ({"Authorization": "Bearer"}, 401),
        ({"X-API-Key": "Bearer {}"}, 401),
        ({"Cookie": "key={}"}, 401),
    ],
)
def test_key_is_read_from_either_header(keys: KeyedService, headers: dict[str, str], status: int) -> None:
    sent = {name: value.format(keys.sent["infer"]) for name, value in headers.items()}
    assert keys.ask(None, "GET", "/v2", headers=sent).status_code == status
    assert keys.ask(None, "POST", INFER, headers=sent, json=PICTURE).status_code == status


def exchange(keys: KeyedService, sent: bytes) -> bytes:
    """Send bytes, and read up to where the server closes."""
    port = httpx.URL(keys.client.base_url).port
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(sent)
        return connection.makefile("rb").read()


def test_rejection_is_sent_before_the_body_is_read(keys: KeyedService) -> None:
    head = f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\nExpect: 100-continue\r\n\r\n"
    answer = exchange(keys, head.encode())
    assert answer.startswith(b"HTTP/1.1 401")
    assert b"\r\nconnection: close\r\n" in answer  # the client may or may not send its body now


def test_connection_stays_usable_after_a_rejection(keys: KeyedService) -> None:
    with open_client(keys.client.base_url) as client:
        for _ in range(2):
            assert client.post(INFER, content=bytes(20_000_000)).json() == LOCKED
        headers = {"X-API-Key": keys.sent["infer"]}
        assert client.post(INFER, json=PICTURE, headers=headers).status_code == 200


def in_one_piece(keys: KeyedService, key: str | None, field: str = "") -> tuple[bytes, Any]:
    """Send an infer request as the short way takes it: (head of the answer, its JSON)."""
    body = json.dumps(PICTURE).encode()
    field += f"X-API-Key: {keys.sent[key]}\r\n" if key else ""
    head = f"POST {INFER} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n{field}\r\n"
    answer, text = exchange(keys, head.encode() + body).split(b"\r\n\r\n", 1)
    return answer, json.loads(text)


def test_fast_path_checks_keys_like_asgi(keys: KeyedService, fast_path_urls: list[bytes]) -> None:
    head, answer = in_one_piece(keys, "infer")
    assert head.startswith(b"HTTP/1.1 200")
    assert answer["outputs"]
    for key in (None, "wrong"):
        head, answer = in_one_piece(keys, key)
        assert head.startswith(b"HTTP/1.1 401")
        assert b"www-authenticate: Bearer" in head
        assert answer == LOCKED
    head, answer = in_one_piece(keys, "admin")
    assert head.startswith(b"HTTP/1.1 403")
    assert answer == {"error": "This needs a key with the scope 'infer'."}
    assert in_one_piece(keys, "slower")[0].startswith(b"HTTP/1.1 200")
    head, _ = in_one_piece(keys, "slower", "X-Request-Id: short\r\n")
    assert head.startswith(b"HTTP/1.1 429")
    assert b"retry-after: " in head
    assert lines(keys, "short")[0]["key"]["name"] == "slower"
    assert len(fast_path_urls) == 6


def test_request_with_an_origin_goes_through_asgi(keys: KeyedService, fast_path_urls: list[bytes]) -> None:
    head, answer = in_one_piece(keys, "infer", f"Origin: {ALLOWED_ORIGIN}\r\n")
    assert answer["outputs"]
    assert f"access-control-allow-origin: {ALLOWED_ORIGIN}".encode() in head
    assert not fast_path_urls


def test_rate_is_shared_among_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shares: list[float] = []
    monkeypatch.setattr(app, "RateLimiter", lambda share: shares.append(share))
    create_key(tmp_path / "keys.json", "ci", ["infer"])
    for workers in (1, 4):
        create_app(Settings(keys=tmp_path / "keys.json", workers=workers))
    assert shares == [1, 0.25]


@pytest.mark.slow
def test_access_log_names_the_key_and_never_its_secret(keys: KeyedService, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    asked = {
        name: [
            keys.ask(name, method, path, json=PICTURE, headers={"X-Request-Id": f"{name}-{method}-{number}"})
            for number, (method, path) in enumerate([("POST", INFER), ("GET", "/v2"), ("GET", "/nothing")])
        ]
        for name in ("infer", "metrics", "wrong")
    }
    for name, answers in asked.items():
        for answer in answers:
            [line] = lines(keys, answer.headers["x-request-id"])
            assert line.get("key") == (None if name == "wrong" else {"id": keys.ids[name], "name": name})
    everything = (keys.folder / "access.log").read_text() + caplog.text
    for sent in keys.sent.values():
        if sent != "x":
            assert sent.rpartition("_")[2] not in everything


def test_service_log_names_the_key(
    bundles: BundleWriter, start: StartService, access_log: AccessLog, tmp_path: Path
) -> None:
    key, sent = create_key(tmp_path / "keys.json", "ci", ["infer"])
    client = start(bundles.root, keys=tmp_path / "keys.json").client
    answer = client.get("/v2", headers={"X-API-Key": sent})
    facts = access_log.facts_of(answer.headers["x-request-id"])
    assert facts["key"] == {"id": key.id, "name": "ci"}


@pytest.mark.slow
def test_key_over_its_rate_gets_429_with_retry_after_and_other_keys_do_not(keys: KeyedService) -> None:
    answers = [keys.ask("slow", "POST", INFER, json=PICTURE) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    wait_s = int(answers[2].headers["retry-after"])
    assert 90 < wait_s <= 100
    assert answers[2].json() == {"error": f"The key is over its rate limit. Try again in {wait_s} seconds."}
    assert keys.ask("slow", "GET", "/v2").status_code == 429
    assert keys.ask("slow", "GET", "/metrics").status_code == 403
    assert keys.ask("slow", "GET", "/v2/health/live").status_code == 200
    assert keys.ask("infer", "POST", INFER, json=PICTURE).status_code == 200
    [line] = lines(keys, answers[2].headers["x-request-id"])
    assert (line["status"], line["key"]) == (429, {"id": keys.ids["slow"], "name": "slow"})


def test_running_service_accepts_new_keys_and_rejects_revoked_ones(
    bundles: BundleWriter, start: StartService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_store, "POLL_INTERVAL_S", 0.02)
    file = tmp_path / "keys.json"
    first, sent = create_key(file, "first", ["infer"])
    client = start(bundles.root, keys=file).client

    def status(key: str) -> int:
        return int(client.get("/v2", headers={"X-API-Key": key}).status_code)

    assert status(sent) == 200
    _, second = create_key(file, "second", ["infer"])
    wait_for(lambda: status(second) == 200)
    revoke_key(file, first.id)
    wait_for(lambda: status(sent) == 401)
    assert status(second) == 200


def test_service_without_a_readable_key_file_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(KeysError, match="does not exist"):
        create_app(Settings(keys=tmp_path / "keys.json"))


def test_readiness_hides_its_reason_where_keys_are_needed(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    create_key(file, "any", ["infer"])
    settings = Settings(repository=tmp_path / "no-such-folder", provider="cpu", keys=file)
    with serve_app(create_app(settings), settings) as service:
        service.wait_until_loaded()
        answer = service.client.get("/v2/health/ready")
    assert answer.status_code == 503
    assert answer.json() == {"ready": False, "error": "The service is not ready; its log says why."}
