from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from normfold.contract.manifest import (
    DATATYPES,
    MAX_VERSION,
    SCHEMA_VERSION,
    Adaptation,
    FoldSummary,
    Manifest,
    OutputError,
    TensorSpec,
    class_axis,
    read_manifest,
    sha256_of,
)
from normfold.contract.preprocess import ImagePreprocessing, RowPreprocessing, SequencePreprocessing
from normfold.contract.record import ManifestError, to_json
from normfold.contract.source_card import LayerStatisticsChange, RunningStatistics, SourceCard, read_source_card

CARD = SourceCard(
    preprocessing=ImagePreprocessing(channels=1, height=8, width=8, value_max=16, mean=(0.3,), std=(0.4,)),
    labels=("a", "b"),
    logits=("logits",),
    metrics={"accuracy": 0.98},
    origin="convnet on digits",
)
RECALIBRATED = CARD.model_copy(
    update={
        "running_statistics": RunningStatistics(
            samples=100,
            taken=True,
            accuracy_before={"validation": 0.97, "test": 0.96},
            accuracy_after={"validation": 0.98, "test": 0.96},
            layers=(
                LayerStatisticsChange(layer="a", mean_shift=0.1, variance_ratio=(0.9, 1.2)),
                LayerStatisticsChange(layer="b", mean_shift=None, variance_ratio=None),
            ),
        )
    }
)
SEQUENCES = SourceCard(preprocessing=SequencePreprocessing(channels=("a",), length=4, mean=(1,), std=(2,)))
MANIFEST = Manifest(
    name="digits",
    version=3,
    created="2026-01-01T00:00:00Z",
    inputs=(TensorSpec(name="input", datatype="FP32", shape=(-1, 1, 8, 8)),),
    outputs=(TensorSpec(name="logits", datatype="FP32", shape=(-1, 2)),),
    batchable=True,
    opset=18,
    card=CARD,
    fold=FoldSummary(batchnorm_before=4, batchnorm_after=1, kept={"shared": 1}),
    verification={"logits": OutputError(error=1e-7, noise=2e-7, allowed=1e-6)},
    versions={"onnx": "1.20"},
    files={"model.onnx": "0" * 64},
)


def written(tmp_path: Path, **changes: Any) -> Path:
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps({**json.loads(to_json(MANIFEST)), **changes}))
    return path


def test_manifest_is_read_as_written(tmp_path: Path) -> None:
    assert read_manifest(written(tmp_path)) == MANIFEST


@pytest.mark.parametrize(
    "card",
    [
        SourceCard(),
        CARD,
        RECALIBRATED,
        SEQUENCES,
        SourceCard(preprocessing=RowPreprocessing(columns=("a",), mean=(1,), std=(2,))),
    ],
)
def test_source_card_is_read_as_written(tmp_path: Path, card: SourceCard) -> None:
    path = tmp_path / "card.json"
    path.write_text(to_json(card))
    assert to_json(card).endswith("}\n")
    assert read_source_card(path) == card


def test_manifest_of_a_copy_needs_schema_version_2(tmp_path: Path) -> None:
    copy = MANIFEST.copy_as_version(7, "2026-02-01T00:00:00Z")

    (tmp_path / "manifest.json").write_text(to_json(copy))

    assert read_manifest(tmp_path / "manifest.json") == copy
    assert (copy.schema_version, copy.version, copy.copy_of) == (2, 7, MANIFEST.version)
    assert copy.files == MANIFEST.files
    assert copy.card == MANIFEST.card
    assert "copy_of" not in to_json(MANIFEST)  # what exports write is read by those that know schema version 1 alone
    assert MANIFEST.schema_version == 1


def test_recalibrated_statistics_need_schema_version_3_in_copies_too(tmp_path: Path) -> None:
    assert (CARD.schema_version, RECALIBRATED.schema_version) == (1, 3)
    assert "running_statistics" not in to_json(MANIFEST)
    card = RECALIBRATED.model_dump(mode="json")
    manifest = read_manifest(written(tmp_path, schema_version=3, card=card))
    assert manifest.card == RECALIBRATED
    copy = manifest.copy_as_version(4, manifest.created)
    assert (copy.schema_version, copy.copy_of, copy.card) == (3, 3, RECALIBRATED)
    for version in (1, 2):
        with pytest.raises(ManifestError, match="'card': Value error, it holds what came with schema version 3"):
            read_manifest(written(tmp_path, schema_version=version, card=card))


def test_sequences_need_schema_version_3_in_copies_too(tmp_path: Path) -> None:
    assert (CARD.schema_version, SEQUENCES.schema_version) == (1, 3)
    card = SEQUENCES.model_dump(mode="json")
    manifest = read_manifest(written(tmp_path, schema_version=3, card=card))
    copy = manifest.copy_as_version(4, manifest.created)
    assert (copy.schema_version, copy.copy_of, copy.card) == (3, 3, SEQUENCES)
    for version in (1, 2):
        with pytest.raises(ManifestError, match="'card': Value error, it holds what came with schema version 3"):
            read_manifest(written(tmp_path, schema_version=version, card=card))


def test_class_axis_is_the_channel_axis_of_masks_and_otherwise_the_last() -> None:
    assert [class_axis(shape) for shape in ((-1, 3), (-1, 3, 8, 8), (-1, 8, 3))] == [1, 1, 2]


def test_copy_over_the_highest_version_is_refused() -> None:
    with pytest.raises(ValidationError, match="less than or equal to 999999999"):
        MANIFEST.copy_as_version(MAX_VERSION + 1, MANIFEST.created)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"copy_of": 1}, "'copy_of': Value error, it came with schema version 2"),
        ({"copy_of": 0, "schema_version": 2}, "'copy_of'"),
        ({"copy_of": "x", "schema_version": 2}, "'copy_of'"),
    ],
)
def test_wrong_copy_of_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        read_manifest(written(tmp_path, **changes))


ADAPTED = {"from_version": 2, "samples": 200, "prior": 16.0}


def test_adapted_bundle_needs_schema_version_3_in_copies_too(tmp_path: Path) -> None:
    adapted = read_manifest(written(tmp_path, schema_version=3, adapted=ADAPTED))
    copy = adapted.copy_as_version(7, "2026-02-01T00:00:00Z")

    (tmp_path / "manifest.json").write_text(to_json(copy))

    assert adapted.adapted == Adaptation(from_version=2, samples=200, prior=16)
    assert read_manifest(tmp_path / "manifest.json") == copy
    assert (copy.schema_version, copy.copy_of, copy.adapted) == (3, 3, adapted.adapted)
    assert "adapted" not in to_json(MANIFEST)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"adapted": ADAPTED, "schema_version": 2}, "'adapted': Value error, it came with schema version 3"),
        ({"adapted": ADAPTED | {"from_version": 0}, "schema_version": 3}, "'adapted.from_version'"),
        ({"adapted": ADAPTED | {"samples": 0}, "schema_version": 3}, "'adapted.samples'"),
        ({"adapted": ADAPTED | {"prior": -1}, "schema_version": 3}, "'adapted.prior'"),
        ({"adapted": {"from_version": 1}, "schema_version": 3}, "'adapted.samples'"),
    ],
)
def test_wrong_adaptation_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        read_manifest(written(tmp_path, **changes))


@pytest.mark.parametrize("version", range(1, SCHEMA_VERSION + 1))
def test_manifests_of_all_schema_versions_load(tmp_path: Path, version: int) -> None:
    assert read_manifest(written(tmp_path, schema_version=version)).schema_version == version


@pytest.mark.parametrize("version", [SCHEMA_VERSION + 1, 99])
def test_newer_schema_version_is_refused_with_advice_to_upgrade(tmp_path: Path, version: int) -> None:
    with pytest.raises(
        ManifestError, match=f"schema version {version}; the newest that can be read is {SCHEMA_VERSION}; upgrade"
    ):
        read_manifest(written(tmp_path, schema_version=version, field_of_tomorrow=1))


@pytest.mark.parametrize("version", [None, 0, "1", 1.0, True])
def test_invalid_schema_version_is_refused(tmp_path: Path, version: Any) -> None:
    with pytest.raises(ManifestError, match="has no schema_version"):
        read_manifest(written(tmp_path, schema_version=version))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"typo": 1}, "'typo'"),
        ({"version": 0}, "'version'"),
        ({"version": MAX_VERSION + 1}, "'version': Input should be less than or equal to 999999999"),
        ({"verification": {"y": {"error": None, "noise": 0, "allowed": 1}}}, "'verification.y.error': Input should be"),
        ({"inputs": [{"name": "x", "datatype": "FLOAT", "shape": []}]}, "'inputs.0.datatype'"),
        ({"inputs": [{"name": "x", "datatype": "FP32", "shape": [-2]}]}, "'inputs.0.shape'"),
        ({"inputs": [{"name": "x", "datatype": "FP32"}]}, "'inputs.0.shape'"),
        ({"card": {"preprocessing": {"kind": "sound"}}}, "'card.preprocessing'"),
        ({"card": {"preprocessing": {"kind": "row", "columns": ["a"], "mean": [0], "std": [0]}}}, "std positive"),
        ({"files": ["model.onnx"]}, "'files'"),
    ],
)
def test_wrong_field_is_named(tmp_path: Path, changes: dict[str, Any], named: str) -> None:
    path = written(tmp_path, **changes)
    with pytest.raises(ManifestError) as caught:
        read_manifest(path)
    assert str(path) in str(caught.value)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"{", "is not JSON"), (b"\xff\xfe", "is not JSON"), (b"[]", "does not hold a JSON object"), (b"", "is not JSON")],
)
def test_file_without_a_json_object_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "manifest.json"
    path.write_bytes(content)
    for read in (read_manifest, read_source_card):
        with pytest.raises(ManifestError, match=message):
            read(path)


@pytest.mark.parametrize("content", [b"[" * 200_000, b'{"a":' * 200_000])
def test_deeply_nested_json_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "manifest.json"
    path.write_bytes(content)
    for read in (read_manifest, read_source_card):
        with pytest.raises(ManifestError, match="manifest.json' is nested too deeply."):
            read(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_nan_and_infinity_are_refused(tmp_path: Path, value: float) -> None:
    path = written(tmp_path, verification={"logits": {"error": value, "noise": 0, "allowed": 1}})
    with pytest.raises(ManifestError, match=f"is not JSON: {json.dumps(value)} is not a JSON number."):
        read_manifest(path)
    with pytest.raises(ValidationError):
        OutputError(error=0, noise=value, allowed=1)


def test_number_over_the_range_of_float_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, verification={"logits": {"error": 0, "noise": 0, "allowed": 1}})
    path.write_text(path.read_text().replace('"allowed": 1', '"allowed": 1e999'))
    with pytest.raises(ManifestError, match="'verification.logits.allowed': Input should be a finite number"):
        read_manifest(path)


def test_highest_version_is_valid(tmp_path: Path) -> None:
    assert read_manifest(written(tmp_path, version=MAX_VERSION)).version == MAX_VERSION


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="'.*none.json' cannot be read: No such file or directory"):
        read_manifest(tmp_path / "none.json")


def test_datatypes_of_the_open_inference_protocol_are_valid() -> None:
    assert len(DATATYPES) == 13
    for datatype in DATATYPES:
        assert TensorSpec(name="x", datatype=datatype, shape=(-1, 2)).datatype == datatype


def test_sha256_of_equals_the_hash_of_the_bytes(tmp_path: Path) -> None:
    data = os.urandom(300_000)
    (tmp_path / "file").write_bytes(data)
    assert sha256_of(tmp_path / "file") == hashlib.sha256(data).hexdigest()
