"""The record of a precision in the manifest: read as written, refused where the schema version or a number is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from normfold.contract.manifest import FoldSummary, Manifest, TensorSpec, read_manifest
from normfold.contract.precision.record import (
    AccuracyChange,
    Agreement,
    Precision,
    PrecisionKind,
    PrecisionProof,
    Recipe,
    WorstLayer,
)
from normfold.contract.record import ManifestError, to_json

PRECISION = Precision(
    kind=PrecisionKind.INT8,
    from_version=2,
    recipe=Recipe(ranges_from="samples", sigmas=6.0, max_drop=0.02),
    proof=PrecisionProof(
        processor="x86_64 AMD EPYC (avx2)",
        rows=100,
        rows_from="samples",
        outputs={"logits": 33.1},
        worst_layer=WorstLayer(value="relu_3", sqnr_db=28.0),
        pair_sum=32640.0,
        fused_sqnr_db=40.0,
        agreement=Agreement(share=0.99, lower_bound=0.94, upper_bound=0.998),
        accuracy=AccuracyChange(before=0.98, after=0.97),
        time_ratio={1: 0.6, 32: 0.5},
        size_ratio=0.26,
    ),
)
MANIFEST = Manifest(
    schema_version=4,
    name="digits",
    version=3,
    created="2026-01-01T00:00:00Z",
    precision=PRECISION,
    inputs=(TensorSpec(name="input", datatype="FP32", shape=(-1, 1, 8, 8)),),
    outputs=(TensorSpec(name="logits", datatype="FP32", shape=(-1, 2)),),
    batchable=True,
    opset=18,
    fold=FoldSummary(batchnorm_before=4, batchnorm_after=0),
    verification={},
    versions={},
    files={"model.onnx": "0" * 64},
)


def written(tmp_path: Path, **changes: Any) -> Path:
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps({**json.loads(to_json(MANIFEST)), **changes}))
    return path


def test_precision_is_read_as_written_and_stays_in_a_copy(tmp_path: Path) -> None:
    found = read_manifest(written(tmp_path))

    assert found == MANIFEST
    assert found.precision is not None
    assert found.precision.proof.time_ratio == {1: 0.6, 32: 0.5}
    copy = found.copy_as_version(9, "2026-02-01T00:00:00Z")
    assert (copy.schema_version, copy.precision) == (4, PRECISION)


def test_manifest_without_a_precision_does_not_name_it() -> None:
    plain = Manifest.model_validate(dict(MANIFEST) | {"precision": None, "schema_version": 1})

    assert "precision" not in to_json(plain)


@pytest.mark.parametrize("version", [1, 2, 3])
def test_precision_in_an_older_schema_version_is_refused(tmp_path: Path, version: int) -> None:
    with pytest.raises(ManifestError, match="'precision': Value error, it came with schema version 4"):
        read_manifest(written(tmp_path, schema_version=version))


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "float32"},
        {"kind": "int4"},
        {"recipe": {"sigmas": 0}},
        {"recipe": {"ranges_from": "guesses"}},
        {"proof": {**json.loads(PRECISION.proof.model_dump_json()), "rows": 0}},
        {"bits": 8},
    ],
)
def test_wrong_precision_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    record = json.loads(PRECISION.model_dump_json()) | change

    with pytest.raises(ManifestError, match="'precision"):
        read_manifest(written(tmp_path, precision=record))


def test_drop_of_accuracy_is_negative_for_a_gain() -> None:
    assert AccuracyChange(before=0.9, after=0.95).drop == pytest.approx(-0.05)
