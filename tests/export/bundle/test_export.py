"""Bundles: complete, described correctly, never overwritten, never half-written."""

from __future__ import annotations

import errno
import json
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from safetensors import safe_open

from normfold.contract.errors import WriteError
from normfold.contract.manifest import read_manifest, sha256_of
from normfold.contract.preprocess import ImagePreprocessing, RowPreprocessing
from normfold.contract.source_card import SourceCard
from normfold.export.bundle.export import export_bundle
from normfold.export.bundle.reservation import reservation
from normfold.export.errors import BundleExportError, VerificationError
from tests.support.onnx_models import run32, small_convnet


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Give the path of an unfolded network with one input x (n, 4, 5, 5) and one output y (n, 3)."""
    path = tmp_path / "net.onnx"
    onnx.save(small_convnet(np.random.default_rng(0)), path)
    return path


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return tmp_path / "repository"


def test_a_bundle_holds_all_that_a_server_must_know(source: Path, repository: Path) -> None:
    card = SourceCard(labels=("a", "b", "c"), logits=("y",), metrics={"accuracy": 0.5}, origin="a test")

    exported = export_bundle(source, repository, "net", card=card)

    folder = repository / "net" / "1"
    assert exported.path == folder
    manifest = read_manifest(folder / "manifest.json")
    assert manifest == exported.manifest
    assert {path.name for path in folder.iterdir()} == {*manifest.files, "manifest.json"}
    assert all(sha256_of(folder / name) == digest for name, digest in manifest.files.items())
    assert [(spec.name, spec.datatype, spec.shape) for spec in manifest.inputs] == [("x", "FP32", (-1, 4, 5, 5))]
    assert [(spec.name, spec.datatype, spec.shape) for spec in manifest.outputs] == [("y", "FP32", (-1, 3))]
    assert (manifest.name, manifest.version, manifest.batchable, manifest.opset) == ("net", 1, True, 17)
    assert (manifest.fold.batchnorm_before, manifest.fold.batchnorm_after) == (1, 0)
    assert manifest.verification["y"].error <= manifest.verification["y"].allowed
    assert manifest.card == card
    inputs = {"x": np.random.default_rng(1).normal(size=(2, 4, 5, 5)).astype(np.float32)}
    models = [run32(onnx.load(path), inputs)[0] for path in (source, folder / "model.onnx", folder / "unfolded.onnx")]
    np.testing.assert_array_equal(models[0], models[2])
    np.testing.assert_allclose(models[0], models[1], rtol=1e-4, atol=1e-4)


def test_statistics_keep_the_full_vectors_and_where_they_went(source: Path, repository: Path) -> None:
    folder = export_bundle(source, repository, "net").path

    original = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(source).graph.initializer}
    with safe_open(folder / "statistics.safetensors", "numpy") as file:
        kept = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 -- no mapping
        index = json.loads(file.metadata()["batchnorm"])
    renamed = {"scale": "scale", "shift": "shift", "running_mean": "mean", "running_var": "var"}
    assert set(kept) == {f"bn.{name}" for name in renamed}
    for ours, theirs in renamed.items():
        np.testing.assert_array_equal(kept[f"bn.{ours}"], original[f"bn.{theirs}"].astype(np.float64))
    assert [(entry["node"], entry["outcome"], entry["output_value"]) for entry in index] == [
        ("bn", "folded back", "n1")
    ]
    assert index[0]["epsilon"] == pytest.approx(1e-5)


def test_every_file_can_be_read_by_another_user(source: Path, repository: Path) -> None:
    old = os.umask(0o022)
    try:
        folder = export_bundle(source, repository, "net").path
    finally:
        os.umask(old)

    assert all(path.stat().st_mode & 0o044 == 0o044 for path in (folder, *folder.iterdir()))


def test_the_source_may_be_left_out(source: Path, repository: Path) -> None:
    exported = export_bundle(source, repository, "net", keep_source=False)

    assert not (exported.path / "unfolded.onnx").exists()
    assert "unfolded.onnx" not in exported.manifest.files


@pytest.mark.slow
def test_versions_count_up_and_are_never_overwritten(source: Path, repository: Path) -> None:
    versions = [
        export_bundle(source, repository, "net", model_version=given).manifest.version for given in (None, 7, None)
    ]
    before = sorted(repository.rglob("*"))

    assert versions == [1, 7, 8]
    with pytest.raises(BundleExportError, match="Version 7 of 'net' exists; a version is never overwritten"):
        export_bundle(source, repository, "net", model_version=7)
    assert sorted(repository.rglob("*")) == before


def test_saved_model_takes_its_external_data_along(source: Path, repository: Path) -> None:
    proto = onnx.load(source)
    onnx.save_model(proto, source, save_as_external_data=True, location="w.bin", size_threshold=0)

    exported = export_bundle(source, repository, "net")

    assert {"model.onnx.data", "unfolded.onnx.data"} <= set(exported.manifest.files)


@pytest.mark.parametrize("name", ["", "a b", "../up", ".hidden", "a/b", "x" * 200])
def test_name_that_is_no_folder_is_rejected(source: Path, repository: Path, name: str) -> None:
    with pytest.raises(BundleExportError, match="cannot be served"):
        export_bundle(source, repository, name)
    assert not repository.exists()


def test_failed_verification_leaves_nothing(source: Path, repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("normfold.export.fold.batchnorm_parameters.DEFAULT_EPSILON", 1e-3)

    with pytest.raises(VerificationError):
        export_bundle(source, repository, "net")

    assert list(repository.rglob("*")) == []


def test_network_with_outputs_that_are_not_finite_is_named(source: Path, repository: Path, tmp_path: Path) -> None:
    proto = onnx.load(source)
    for weight in proto.graph.initializer:
        array = numpy_helper.to_array(weight)
        if array.dtype == np.float32:
            weight.CopyFrom(numpy_helper.from_array(np.full_like(array, np.nan), weight.name))
    onnx.save(proto, tmp_path / "nan.onnx")

    with pytest.raises(VerificationError, match="own values are not finite.* `normfold audit`"):
        export_bundle(tmp_path / "nan.onnx", repository, "net")

    assert list(repository.rglob("*")) == []


def test_two_exports_at_once_get_versions_of_their_own(repository: Path) -> None:
    with reservation(repository, "net", None) as (first, one), reservation(repository, "net", None) as (second, two):
        assert (one, two) == (1, 2)
        assert {first.name, second.name} == {"1.partial", "2.partial"}
        with (
            pytest.raises(BundleExportError, match="Version 2 of 'net' is being written"),
            reservation(repository, "net", 2),
        ):
            pass
    assert sorted(path.name for path in (repository / "net").iterdir()) == ["1", "2"]


def test_a_repository_that_cannot_be_written_is_named(source: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(WriteError, match="not a directory"):
        export_bundle(source, tmp_path / "file", "net")


def test_a_full_disk_leaves_nothing_wherever_it_is_met(source: Path, repository: Path, tmp_path: Path) -> None:
    """Files may have one byte less than each of the bundle's has: sooner or later one does not fit."""
    written = export_bundle(source, tmp_path / "whole", "net").path
    sizes = {path.stat().st_size for path in written.iterdir()}
    for limit in (0, *(size - 1 for size in sizes)):
        with file_size_limit(limit), pytest.raises(WriteError, match="file too large"):
            export_bundle(source, repository, "net")
        assert list(repository.rglob("*")) == []
    with file_size_limit(max(sizes)):
        assert export_bundle(source, repository, "net").path == repository / "net" / "1"


@pytest.mark.parametrize("call", range(1, 6))  # four files, and their folder
def test_a_disk_that_is_full_when_files_are_synced_leaves_nothing(
    source: Path, repository: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    """File systems that allocate late report only then that the disk is full; servers see no version meanwhile."""
    calls = []
    right = os.fsync

    def fsync(descriptor: int) -> None:
        calls.append(descriptor)
        assert not [path for path in repository.glob("net/*") if path.name.isdecimal()]
        if len(calls) == call:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        right(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(WriteError, match="no space left on device"):
        export_bundle(source, repository, "net")
    assert list(repository.rglob("*")) == []


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Let this process write files of at most so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


IMAGE = ImagePreprocessing(channels=1, height=5, width=5, mean=(0.5,), std=(0.5,))


@pytest.mark.parametrize(
    ("card", "says"),
    [
        ({"logits": ("z",)}, r"calls 'z' logits; the model's outputs are \['y'\]"),
        ({"logits": ("y",), "labels": ("a", "b")}, "has 2 labels; the output 'y' has 3 classes"),
        ({"preprocessing": IMAGE}, r"makes FP32 samples \[1, 5, 5\]; the model takes 'x' FP32 \[-1, 4, 5, 5\]"),
        ({"preprocessing": RowPreprocessing(columns=("a",), mean=(0.0,), std=(1.0,))}, r"makes FP32 samples \[1\]"),
    ],
)
def test_card_that_does_not_fit_is_rejected(source: Path, repository: Path, card: Any, says: str) -> None:
    with pytest.raises(BundleExportError, match=says):
        export_bundle(source, repository, "net", card=SourceCard(**card))
    assert not repository.exists()
