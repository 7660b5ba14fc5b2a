"""A repository with valid and invalid bundles: which are ready, and the reason of the others."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from normfold.contract.manifest import MAX_VERSION, TensorSpec, sha256_of
from normfold.contract.source_card import SourceCard
from normfold.service.batching.thread_pool import ThreadPool
from normfold.service.observability.access_log import LoggerAccessLog
from normfold.service.observability.telemetry import Telemetry
from normfold.service.repository import repository as repository_module
from normfold.service.repository import version_switch
from normfold.service.repository.loader import read_bundle
from normfold.service.repository.repository import Repository
from normfold.service.settings import Settings
from tests.support.bundles import BundleWriter
from tests.support.service import Service

Start = Callable[..., Any]


def states(service: Service) -> dict[str, Any]:
    """Return NAME/VERSION to its entry in the list of models."""
    models = service.client.get("/v1/models").json()["models"]
    return {f"{model['name']}/{version['version']}": version for model in models for version in model["versions"]}


def load(root: Path) -> Repository:
    """Load a repository without the service around it."""
    workers = ThreadPool(threads=1)
    loaded = Repository(Settings(repository=root, provider="cpu"), workers, Telemetry(LoggerAccessLog()))
    asyncio.run(loaded.load())
    workers.close()
    return loaded


def break_missing_file(_: Any, folder: Path) -> None:
    (folder / "model.onnx").unlink()


def break_pipe(_: Any, folder: Path) -> None:
    (folder / "model.onnx").unlink()
    os.mkfifo(folder / "model.onnx")  # reading it would wait forever


def break_manifest_pipe(_: Any, folder: Path) -> None:
    (folder / "manifest.json").unlink()
    os.mkfifo(folder / "manifest.json")


def break_manifest_circle(_: Any, folder: Path) -> None:
    (folder / "manifest.json").unlink()
    (folder / "manifest.json").symlink_to("manifest.json")


def break_circle(_: Any, folder: Path) -> None:
    (folder / "model.onnx").unlink()
    (folder / "model.onnx").symlink_to("model.onnx")


def break_folder_circle(_: Any, folder: Path) -> None:
    shutil.rmtree(folder)
    folder.symlink_to(folder.name)


def break_manifest_depth(_: Any, folder: Path) -> None:
    (folder / "manifest.json").write_text("[" * 200_000)


def break_manifest_infinity(bundles: BundleWriter, folder: Path) -> None:
    bundles.change_manifest(folder, verification={"logits": {"error": float("inf"), "noise": 0, "allowed": 0}})


def break_unlisted_file(_: Any, folder: Path) -> None:
    (folder / "weights.bin").write_bytes(b"not in the manifest")


def break_unlisted_folder(_: Any, folder: Path) -> None:
    (folder / "data").mkdir()


def break_changed_file(_: Any, folder: Path) -> None:
    with (folder / "model.onnx").open("ab") as file:
        file.write(b"\0")


def break_corrupt_network(bundles: BundleWriter, folder: Path) -> None:
    (folder / "model.onnx").write_bytes(b"no network")
    bundles.change_manifest(folder, files={"model.onnx": sha256_of(folder / "model.onnx")})


def break_missing_manifest(_: Any, folder: Path) -> None:
    (folder / "manifest.json").unlink()


def break_manifest_syntax(_: Any, folder: Path) -> None:
    (folder / "manifest.json").write_text("{")


def break_manifest_of_tomorrow(bundles: BundleWriter, folder: Path) -> None:
    bundles.change_manifest(folder, schema_version=99)


def break_unlisted_model(bundles: BundleWriter, folder: Path) -> None:
    bundles.change_manifest(folder, files={})


def break_traversal(bundles: BundleWriter, folder: Path) -> None:
    listed = json.loads((folder / "manifest.json").read_text())["files"]
    bundles.change_manifest(folder, files=listed | {"../../secret": "0" * 64})


def break_listed_folder(bundles: BundleWriter, folder: Path) -> None:
    (folder / "inner").mkdir()
    listed = json.loads((folder / "manifest.json").read_text())["files"]
    bundles.change_manifest(folder, files=listed | {"inner": "0" * 64})


def break_link_out_of_the_repository(bundles: BundleWriter, folder: Path) -> None:
    outside = bundles.root.parent / "outside.onnx"
    shutil.move(folder / "model.onnx", outside)
    (folder / "model.onnx").symlink_to(outside)


def break_name(bundles: BundleWriter, folder: Path) -> None:
    bundles.change_manifest(folder, name="other")


def break_version(bundles: BundleWriter, folder: Path) -> None:
    bundles.change_manifest(folder, version=7)


def break_input_name(bundles: BundleWriter, folder: Path) -> None:
    bundles.change_manifest(folder, inputs=[{"name": "x", "datatype": "FP32", "shape": [-1, 1, 4, 4]}])


def break_input_datatype(bundles: BundleWriter, folder: Path) -> None:
    bundles.change_manifest(folder, inputs=[{"name": "input", "datatype": "FP64", "shape": [-1, 1, 4, 4]}])


def break_input_shape(bundles: BundleWriter, folder: Path) -> None:
    bundles.change_manifest(folder, card={}, inputs=[{"name": "input", "datatype": "FP32", "shape": [-1, 1, 4, -1]}])


def break_output_shape(bundles: BundleWriter, folder: Path) -> None:
    bundles.change_manifest(folder, card={}, outputs=[{"name": "logits", "datatype": "FP32", "shape": [-1, 4]}])


def break_labels(bundles: BundleWriter, folder: Path) -> None:
    card = SourceCard(labels=("a", "b"), logits=("logits",))
    bundles.change_manifest(folder, card=card.model_dump(mode="json"))


def break_logits(bundles: BundleWriter, folder: Path) -> None:
    bundles.change_manifest(folder, card={"logits": ["probabilities"]})


def break_preprocessing(bundles: BundleWriter, folder: Path) -> None:
    card = {"preprocessing": {"kind": "row", "columns": ["a"], "mean": [0], "std": [1]}}
    bundles.change_manifest(folder, card=card)


def break_output_datatype(bundles: BundleWriter, folder: Path) -> None:
    bundles.change_manifest(folder, card={}, outputs=[{"name": "logits", "datatype": "INT32", "shape": [-1, 3]}])


def break_doubled_input(bundles: BundleWriter, folder: Path) -> None:
    value = {"name": "input", "datatype": "FP32", "shape": [-1, 1, 4, 4]}
    bundles.change_manifest(folder, inputs=[value, value])


def break_pixels(bundles: BundleWriter, folder: Path) -> None:
    bundles.change_manifest(folder, takes_pixels=True)


def break_preprocessed_integers(bundles: BundleWriter, folder: Path) -> None:
    bundles.change_manifest(folder, inputs=[{"name": "input", "datatype": "UINT8", "shape": [-1, 1, 4, 4]}])


def break_independence(bundles: BundleWriter, folder: Path) -> None:
    shutil.rmtree(folder)
    values = [TensorSpec(name=name, datatype="FP32", shape=(-1, 2)) for name in ("input", "output")]
    node = helper.make_node("ReduceSum", ["input", "axes"], ["output"])  # over the rows: one row is left of any number
    bundles.write("broken", 1, [node], values[:1], values[1:], {"axes": np.array([0], np.int64)}, batchable=True)


BREAKS: dict[Callable[[BundleWriter, Path], None], str] = {
    break_missing_file: "The file 'model.onnx' cannot be read: No such file or directory.",
    break_pipe: "'model.onnx' is not a plain file.",
    break_changed_file: "The file 'model.onnx' is not the one that was exported",
    break_corrupt_network: "ONNX Runtime cannot open 'model.onnx'",
    break_missing_manifest: "The file 'manifest.json' cannot be read: No such file or directory.",
    break_manifest_pipe: "'manifest.json' is not a plain file.",
    break_manifest_circle: "'manifest.json' cannot be read: Too many levels of symbolic links.",
    break_circle: "'model.onnx' cannot be read: Too many levels of symbolic links.",
    break_folder_circle: "'manifest.json' cannot be read: Too many levels of symbolic links.",
    break_manifest_depth: "'broken/1/manifest.json' is nested too deeply.",
    break_manifest_infinity: "'broken/1/manifest.json' is not JSON: Infinity is not a JSON number.",
    break_unlisted_file: "The folder holds 'weights.bin', which the manifest does not list.",
    break_unlisted_folder: "The folder holds 'data', which the manifest does not list.",
    break_manifest_syntax: "'broken/1/manifest.json' is not JSON",
    break_manifest_of_tomorrow: "schema version 99",
    break_unlisted_model: "does not list 'model.onnx'",
    break_traversal: "'../../secret', which is not a plain file name",
    break_listed_folder: "'inner' is not a plain file.",
    break_link_out_of_the_repository: "'model.onnx' is a symbolic link that leaves the repository",
    break_name: "about 'other/1', but lies in 'broken/1'",
    break_version: "about 'broken/7', but lies in 'broken/1'",
    break_input_name: "names the inputs ['x'], the network has ['input']",
    break_input_datatype: "'input' is FP64 [-1, 1, 4, 4], in the network it is FP32 [-1, 1, 4, 4]",
    break_input_shape: "'input' is FP32 [-1, 1, 4, -1], in the network it is FP32 [-1, 1, 4, 4]",
    break_output_shape: "'logits' is FP32 [-1, 4], in the network it is FP32 [-1, 3]",
    break_output_datatype: "'logits' is INT32 [-1, 3], in the network it is FP32 [-1, 3]",
    break_doubled_input: "names the inputs ['input', 'input'], the network has ['input']",
    break_pixels: "says that the network takes pixels, but its inputs are ['FP32']",
    break_preprocessed_integers: "Preprocessing makes numbers with fractions, the network takes UINT8.",
    break_independence: "rows are independent, but 'output' has the shape [1, 2] for 2 rows",
    break_labels: "2 labels for 3 logits",
    break_logits: "calls the output 'probabilities' logits, but there is no such output",
    break_preprocessing: "Preprocessing makes samples of shape [1], the network takes [-1, 1, 4, 4]",
}


@pytest.mark.parametrize("damage", BREAKS, ids=lambda damage: damage.__name__)
def test_invalid_bundle_is_unavailable_with_its_reason_and_others_load(
    bundles: BundleWriter, caplog: pytest.LogCaptureFixture, damage: Callable[[BundleWriter, Path], None]
) -> None:
    bundles.digits(name="healthy")
    damage(bundles, bundles.digits(name="broken"))
    repository = load(bundles.root)
    assert repository.problem is None
    assert repository.find("healthy").version == 1
    entry = repository.entries["broken"][1]
    assert entry.state == "UNAVAILABLE"
    assert BREAKS[damage] in entry.reason
    assert str(bundles.root) not in entry.reason
    [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.getMessage() == f"broken/1 is unavailable: {entry.reason}"
    assert record.exc_info is None


def test_network_that_fails_on_zeros_is_unavailable(bundles: BundleWriter, start: Start) -> None:
    values = [TensorSpec(name=name, datatype="INT64", shape=(-1,)) for name in ("input", "output")]
    node = helper.make_node("Reshape", ["input", "shape"], ["output"])
    bundles.write("fails", 1, [node], values[:1], values[1:], {"shape": np.array([7], np.int64)})
    reason = states(start(bundles.root))["fails/1"]["reason"]
    assert reason.startswith("The network fails on zeros")


def test_invalid_new_version_leaves_the_older_one_ready(bundles: BundleWriter, start: Start) -> None:
    bundles.digits(1)
    break_changed_file(bundles, bundles.digits(2))
    service = start(bundles.root)
    assert service.client.get("/v2/models/digits").json()["versions"] == ["1"]
    body = {"inputs": [{"name": "input", "datatype": "FP32", "shape": [1, 1, 4, 4], "data": [0.0] * 16}]}
    assert service.client.post("/v2/models/digits/infer", json=body).json()["model_version"] == "1"
    answer = service.client.post("/v2/models/digits/versions/2/infer", json=body)
    assert answer.status_code == 503
    assert "Version 2 of model 'digits' is not ready" in answer.json()["error"]


def test_folders_without_bundles_are_ignored(
    bundles: BundleWriter, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    folder = bundles.digits(10)
    for name in ("0", "01", "latest", ".staging", "-1"):
        shutil.copytree(folder, folder.parent / name)
    shutil.copytree(folder.parent, bundles.root / ".hidden")
    outside = bundles.root.parent / "outside"
    shutil.move(bundles.digits(1, name="moved").parent, outside)
    (bundles.root / "moved").symlink_to(outside)
    (folder.parent / "2").symlink_to(outside / "1")
    (bundles.root / "README").write_text("a file")
    (bundles.root / "empty").mkdir()
    service = start(bundles.root)
    assert list(states(service)) == ["digits/10"]
    assert sum("leaves the repository" in record.getMessage() for record in caplog.records) == 2


def test_unreadable_folder_makes_only_its_model_unavailable(
    bundles: BundleWriter, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundles.digits(name="healthy")
    locked = bundles.digits(name="locked").parent
    right = Path.iterdir

    def list_unless_locked(path: Path) -> Iterator[Path]:
        if path == locked:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return right(path)

    monkeypatch.setattr(Path, "iterdir", list_unless_locked)
    client = start(bundles.root).client
    assert client.get("/v2/health/ready").json() == {"ready": True}
    assert client.get("/v2/models/healthy/ready").status_code == 200
    reason = "its folder cannot be read: Permission denied."
    assert {"name": "locked", "versions": [], "reason": reason} in client.get("/v1/models").json()["models"]
    for path in ("locked", "locked/versions/1"):
        answer = client.get(f"/v2/models/{path}")
        assert answer.status_code == 503
        assert answer.json()["error"].endswith(f"'locked' is not ready: {reason}")
    shutil.rmtree(bundles.root / "healthy")
    assert load(bundles.root).problem == f"No model could be loaded. locked: {reason}"


@pytest.mark.parametrize("level", ["model", "version"])
def test_folder_without_permissions_does_not_affect_other_models(
    bundles: BundleWriter, monkeypatch: pytest.MonkeyPatch, level: str
) -> None:
    bundles.digits(1, name="healthy")
    folder = bundles.digits(2, name="locked")
    bundles.digits(1, name="locked")
    locked = folder if level == "version" else folder.parent
    right = Path.stat

    def look_unless_locked(path: Path, **options: Any) -> os.stat_result:
        if path.is_relative_to(locked):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return right(path, **options)

    monkeypatch.setattr(Path, "stat", look_unless_locked)
    repository = load(bundles.root)
    assert repository.problem is None
    assert repository.find("healthy").version == 1
    entry = repository.entries["locked"][2]
    assert (entry.state, entry.reason) == (
        "UNAVAILABLE",
        "The file 'manifest.json' cannot be read: Permission denied.",
    )
    if level == "version":
        assert repository.find("locked").version == 1


def test_versions_over_the_maximum_are_logged_and_ignored(
    bundles: BundleWriter, caplog: pytest.LogCaptureFixture
) -> None:
    folder = bundles.digits(MAX_VERSION)
    for name in (str(MAX_VERSION + 1), "9" * 200, "01"):
        shutil.copytree(folder, folder.parent / name)
    repository = load(bundles.root)
    assert list(repository.entries["digits"]) == [MAX_VERSION]
    assert repository.find("digits", str(MAX_VERSION)).version == MAX_VERSION
    messages = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert sorted(messages) == sorted(
        f"{folder.parent / name} is ignored: versions go from 1 to 999999999."
        for name in (str(MAX_VERSION + 1), "9" * 200, "01")
    )


def test_link_within_the_repository_is_followed(bundles: BundleWriter, start: Start) -> None:
    folder = bundles.digits(1)
    shutil.move(folder, bundles.root / ".data")
    folder.symlink_to(bundles.root / ".data")
    service = start(bundles.root)
    assert states(service)["digits/1"]["state"] == "READY"


@pytest.mark.parametrize("exists", [True, False])
def test_repository_without_models_starts_and_says_why_it_is_not_ready(
    tmp_path: Path, start: Start, caplog: pytest.LogCaptureFixture, exists: bool
) -> None:
    service = start(tmp_path if exists else tmp_path / "none")
    assert service.client.get("/v2/health/live").json() == {"live": True}
    answer = service.client.get("/v2/health/ready")
    assert answer.status_code == 503
    says = "There are no models in" if exists else "There is no folder"
    assert says in answer.json()["error"]
    assert answer.json()["ready"] is False
    assert any(record.getMessage() == f"Not ready: {answer.json()['error']}" for record in caplog.records)


def test_service_without_a_valid_model_is_not_ready_and_names_each(bundles: BundleWriter, start: Start) -> None:
    break_missing_manifest(bundles, bundles.digits(1, name="a"))
    break_name(bundles, bundles.digits(1, name="b"))
    text = start(bundles.root).client.get("/v2/health/ready").json()["error"]
    assert "a/1: The file 'manifest.json' cannot be read" in text
    assert "b/1: The manifest is about" in text


def test_unexpected_error_of_a_scan_makes_the_service_unready(
    bundles: BundleWriter, start: Start, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(_: Repository) -> None:
        raise ZeroDivisionError("planted")

    monkeypatch.setattr(repository_module, "scan", die)
    service = start(bundles.root)
    answer = service.client.get("/v2/health/ready")
    assert answer.status_code == 503
    assert "stopped on an unexpected error" in answer.json()["error"]
    assert "planted" not in answer.text
    assert any(record.exc_info and "planted" in str(record.exc_info[1]) for record in caplog.records)


def test_unexpected_error_of_a_bundle_is_logged_and_others_load(
    bundles: BundleWriter, start: Start, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(folder: Path, *rest: Any) -> Any:
        if folder.parent.name == "broken":
            raise ZeroDivisionError("planted")
        return right(folder, *rest)

    right = read_bundle
    monkeypatch.setattr(version_switch, "read_bundle", die)
    bundles.digits(name="broken")
    bundles.digits(name="healthy")
    service = start(bundles.root)
    assert states(service)["healthy/1"]["state"] == "READY"
    assert "log has the traceback" in states(service)["broken/1"]["reason"]
    assert any(record.exc_info and "planted" in str(record.exc_info[1]) for record in caplog.records)


def test_service_is_live_while_models_load(
    bundles: BundleWriter, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()
    right = read_bundle

    def wait(*arguments: Any) -> Any:
        assert go_on.wait(timeout=30)
        return right(*arguments)

    monkeypatch.setattr(version_switch, "read_bundle", wait)
    bundles.digits()
    service = start(bundles.root, wait=False)
    try:
        assert service.client.get("/v2/health/live").status_code == 200
        answer = service.client.get("/v2/health/ready")
        assert (answer.status_code, answer.json()["ready"]) == (503, False)
    finally:
        go_on.set()
    service.wait_until_loaded()
    assert service.client.get("/v2/health/ready").json() == {"ready": True}
    assert service.client.get("/v2/models/digits/ready").json() == {"name": "digits", "ready": True}
