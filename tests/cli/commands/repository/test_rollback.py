"""`normfold repository rollback`: the copy of an earlier version under a new number, and what a service makes of it."""

from __future__ import annotations

import errno
import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from normfold.contract.manifest import MAX_VERSION, read_manifest
from normfold.contract.source_card import SourceCard
from normfold.service.app import create_app
from normfold.service.settings import Settings
from tests.support.bundles import BundleWriter, file_contents, version_names
from tests.support.command import RunCommand
from tests.support.infer_bodies import PICTURE
from tests.support.raw_http import open_client
from tests.support.service import answering_version, serve_app
from tests.support.waiting import wait_for


def test_rollback_publishes_the_version_before_the_newest_under_a_new_number(
    normfold: RunCommand, digits: BundleWriter, card: SourceCard
) -> None:
    before = file_contents(digits.root)

    code, out, _ = normfold("repository", "rollback", "digits")

    assert (code, out) == (0, "digits/4 is a copy of digits/2, its files hard-linked.\n")
    after = file_contents(digits.root)
    assert before.items() <= after.items()
    copy, source = digits.root / "digits" / "4", digits.root / "digits" / "2"
    assert sorted(path.name for path in copy.iterdir()) == ["manifest.json", "model.onnx"]
    assert (copy / "model.onnx").samefile(source / "model.onnx")
    manifest = read_manifest(copy / "manifest.json")
    assert (manifest.version, manifest.copy_of, manifest.schema_version) == (4, 2, 2)
    assert manifest.card == card
    assert manifest.created > "2026-01-01T00:00:00Z"


@pytest.mark.usefixtures("digits")
def test_rollback_to_a_version_and_back_again(normfold: RunCommand) -> None:
    assert json.loads(normfold("repository", "rollback", "digits", "--to", "1", "--json")[1]) == {
        "name": "digits",
        "version": 4,
        "copy_of": 1,
        "bundle": "model_repository/digits/4",
        "linked": True,
    }

    assert normfold("repository", "rollback", "digits")[1].startswith("digits/5 is a copy of digits/3")


def test_rollback_copies_where_files_cannot_have_two_names(
    normfold: RunCommand, digits: BundleWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)

    code, out, _ = normfold("repository", "rollback", "digits")

    assert (code, out) == (0, "digits/4 is a copy of digits/2, its files copied.\n")
    copy, source = (digits.root / "digits" / number / "model.onnx" for number in ("4", "2"))
    assert copy.read_bytes() == source.read_bytes()
    assert not copy.samefile(source)


def test_rollback_of_a_version_made_of_links_gives_files(normfold: RunCommand, digits: BundleWriter) -> None:
    model = digits.root / "digits" / "2" / "model.onnx"
    model.rename(digits.root / ".shared")
    model.symlink_to("../../.shared")

    assert normfold("repository", "rollback", "digits")[0] == 0

    copy = digits.root / "digits" / "4" / "model.onnx"
    assert not copy.is_symlink()
    assert copy.samefile(digits.root / ".shared")


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda folder: (folder / "model.onnx").write_bytes(b"x"), "its sha256 differs from the manifest"),
        (lambda folder: (folder / "model.onnx").unlink(), "'model.onnx' cannot be read"),
        (lambda folder: (folder / "manifest.json").unlink(), "'manifest.json' cannot be read"),
        (lambda folder: (folder / "more.bin").touch(), "holds 'more.bin', which the manifest does not list"),
    ],
)
def test_a_damaged_version_is_not_rolled_back_to(
    normfold: RunCommand, digits: BundleWriter, damage: Any, says: str
) -> None:
    damage(digits.root / "digits" / "2")

    code, out, err = normfold("repository", "rollback", "digits")

    assert (code, out) == (1, "")
    assert err.startswith("error: Version 2 of 'digits' is damaged, and nothing was written: ")
    assert says in err
    assert version_names(digits.root) == ["1", "2", "3"]


def test_a_rollback_that_is_cut_off_leaves_nothing(
    normfold: RunCommand, digits: BundleWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)

    code, _, err = normfold("repository", "rollback", "digits")

    assert code == 3
    assert err == "error: Cannot write 'model_repository/digits': no space left on device.\n"
    assert version_names(digits.root) == ["1", "2", "3"]


def test_rollback_after_the_highest_version_is_an_error(normfold: RunCommand, root: Path) -> None:
    writer = BundleWriter(root)
    writer.digits(1)
    writer.digits(MAX_VERSION)

    code, _, err = normfold("repository", "rollback", "digits")

    assert code == 2
    assert "There is no free version of 'digits': the largest is 999999999." in err
    assert version_names(root) == ["1", str(MAX_VERSION)]


def test_rollback_of_the_only_version_is_an_error(normfold: RunCommand, root: Path) -> None:
    BundleWriter(root).digits()

    code, _, err = normfold("repository", "rollback", "digits")

    assert (code, err) == (2, "error: There is no version of 'digits' before the newest to go back to.\n")


@pytest.mark.slow
def test_a_service_that_polls_answers_with_the_version_rolled_back_to_and_no_request_fails(
    normfold: RunCommand, digits: BundleWriter
) -> None:
    settings = Settings(repository=digits.root, provider="cpu", model_control="poll", poll_interval_s=0.05)
    statuses: set[int] = set()
    stop = threading.Event()

    def ask() -> None:
        with open_client(service.client.base_url) as client:
            while not stop.is_set():
                statuses.add(client.post("/v2/models/digits/infer", json=PICTURE).status_code)

    with serve_app(create_app(settings), settings) as service:
        service.wait_until_loaded()
        assert answering_version(service) == 3
        thread = threading.Thread(target=ask)
        thread.start()
        try:
            assert normfold("repository", "rollback", "digits")[0] == 0
            wait_for(lambda: answering_version(service) == 2)
            assert service.client.get("/v2/models/digits").json()["versions"] == ["1", "2", "3", "4"]

            assert normfold("repository", "prune", "--keep", "1", "--yes")[0] == 0
            wait_for(lambda: service.client.get("/v2/models/digits").json()["versions"] == ["4"])
            assert answering_version(service) == 2
        finally:
            stop.set()
            thread.join(timeout=20)
    assert statuses == {200}
