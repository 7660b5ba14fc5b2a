"""Files that change, disappear or cannot be written while a service loads and serves."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from normfold.service.repository import loader
from normfold.service.runtime import session_factory
from tests.support.bundles import BundleWriter, publish_version
from tests.support.service import StartService, answering_version, post_picture, repository_index
from tests.support.waiting import wait_for

Act = Callable[[Path, Path], None]
"""What is done to the folder of a version, with another one's, whose network has the same size and answers 7."""


def replace(folder: Path, other: Path) -> None:
    shutil.copy(other / "model.onnx", folder / "new")
    (folder / "new").rename(folder / "model.onnx")


def write_in_place(folder: Path, other: Path) -> None:
    path = folder / "model.onnx"
    facts = path.stat()
    path.write_bytes((other / "model.onnx").read_bytes())
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert path.stat().st_size == facts.st_size


def replace_folder(folder: Path, other: Path) -> None:
    folder.rename(folder.parent / "old")
    shutil.copytree(other, folder)


def add_file(folder: Path, _: Path) -> None:
    (folder / "weights.bin").write_bytes(b"")


def replace_manifest(folder: Path, other: Path) -> None:
    (other / "manifest.json").rename(folder / "manifest.json")


def replace_for_a_moment(folder: Path, other: Path) -> None:
    (folder / "model.onnx").rename(folder.parent / "aside")
    shutil.copy(other / "model.onnx", folder)


def put_back(folder: Path, _: Path) -> None:
    (folder.parent / "aside").rename(folder / "model.onnx")


def nothing(*_: Path) -> None:
    pass


@pytest.fixture
def between(bundles: BundleWriter, monkeypatch: pytest.MonkeyPatch) -> Callable[[Act, Act], None]:
    """Return a function that has something done once the sums are checked, before and after the network is opened."""
    other = type(bundles)(bundles.root.parent / "other").digits(1, bias=7.0)

    def plan(before: Act, after: Act) -> None:
        right = session_factory.open_session

        def open_session(path: Path, *rest: Any, **options: Any) -> Any:
            monkeypatch.setattr(loader, "open_session", right)
            before(path.parent, other)
            opened = right(path, *rest, **options)
            after(path.parent, other)
            return opened

        monkeypatch.setattr(loader, "open_session", open_session)

    return plan


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (replace, nothing),
        (write_in_place, nothing),
        (replace_folder, nothing),
        (add_file, nothing),
        (replace_manifest, nothing),
        (replace_for_a_moment, put_back),
    ],
    ids=lambda act: act.__name__,
)
def test_bundle_that_changes_while_loading_is_rejected(
    bundles: BundleWriter, start: StartService, between: Callable[[Act, Act], None], before: Act, after: Act
) -> None:
    between(before, after)
    bundles.digits(1)
    service = start(bundles.root)
    answer = post_picture(service)
    assert answer.status_code == 503
    assert answer.json()["error"].endswith("Its files changed while it was being loaded.")


def test_file_that_is_only_read_does_not_count_as_changed(
    bundles: BundleWriter, start: StartService, between: Callable[[Act, Act], None]
) -> None:
    def read(folder: Path, _: Path) -> None:
        (folder / "model.onnx").read_bytes()

    between(read, nothing)
    bundles.digits(1)
    assert answering_version(start(bundles.root)) == 0


def test_changed_version_is_loaded_again(
    bundles: BundleWriter, start: StartService, between: Callable[[Act, Act], None]
) -> None:
    between(replace_for_a_moment, put_back)
    publish_version(bundles, 1)
    service = start(bundles.root, model_control="poll", poll_interval_s=0.05)
    wait_for(lambda: answering_version(service) == 1)


def test_link_to_another_file_counts_as_a_change(
    bundles: BundleWriter, start: StartService, between: Callable[[Act, Act], None]
) -> None:
    def write_behind_the_link(folder: Path, other: Path) -> None:
        write_in_place((folder / "model.onnx").resolve().parent, other)

    folder = bundles.digits(1)
    (bundles.root / ".store").mkdir()
    (folder / "model.onnx").rename(bundles.root / ".store" / "model.onnx")
    (folder / "model.onnx").symlink_to(bundles.root / ".store" / "model.onnx")
    between(write_behind_the_link, nothing)
    service = start(bundles.root)
    assert repository_index(service)["digits/1"] == ("UNAVAILABLE", "Its files changed while it was being loaded.")


@pytest.mark.slow
def test_loaded_models_survive_a_missing_repository(
    bundles: BundleWriter, start: StartService, caplog: pytest.LogCaptureFixture
) -> None:
    publish_version(bundles, 1)
    service = start(bundles.root, model_control="poll", poll_interval_s=0.05)
    away = bundles.root.rename(bundles.root.parent / "away")
    wait_for(lambda: any(message.startswith("There is no folder") for message in caplog.messages))
    assert answering_version(service) == 1
    assert service.client.get("/v2/health/ready").json() == {"ready": True}
    away.rename(bundles.root)
    publish_version(bundles, 2)
    wait_for(lambda: answering_version(service) == 2)


def test_load_request_reports_a_missing_repository(bundles: BundleWriter, start: StartService) -> None:
    publish_version(bundles, 1)
    service = start(bundles.root, model_control="explicit")
    assert service.client.post("/v2/repository/models/digits/load").status_code == 200
    away = bundles.root.rename(bundles.root.parent / "away")
    answer = service.client.post("/v2/repository/models/digits/load")
    assert answer.status_code == 503
    assert "There is no folder" in answer.json()["error"]
    assert answering_version(service) == 1
    away.rename(bundles.root)
    assert service.client.post("/v2/repository/models/digits/load").status_code == 200


@pytest.mark.slow
def test_models_load_and_run_on_a_full_disk(
    bundles: BundleWriter, start: StartService, caplog: pytest.LogCaptureFixture
) -> None:
    """The access log is all that a service writes."""
    bundles.digits(1, bias=3.0)
    service = start(bundles.root, access_log=Path("/dev/full"))
    assert answering_version(service) == 3
    wait_for(lambda: "lost: No space left on device." in caplog.text)
    assert answering_version(service) == 3
