"""New versions in a lower precision, made from a version alone: what they hold, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from normfold.contract.manifest import Manifest, read_manifest, sha256_of
from normfold.contract.precision.record import PrecisionKind
from normfold.contract.source_card import SourceCard
from normfold.export.adapt.adapt import adapt
from normfold.export.bundle.export import export_bundle
from normfold.export.bundle.recorded_ranges import read_recorded_ranges
from normfold.export.errors import PrecisionLossError, QuantizeError, SampleCountError, SampleError, UnfoldError
from normfold.export.precision.options import PrecisionOptions, conversion_of_rows
from normfold.export.precision.quantize_bundle import quantize_bundle
from normfold.export.quantize import lower_precision
from normfold.export.quantize.record_ranges import RecordRanges
from normfold.export.repository.rollback import roll_back
from normfold.export.unfold.unfold import unfold_bundle
from tests.support.onnx_models import GREY_CARD, grey_classifier, grey_pictures, run32

CARD = SourceCard(preprocessing=GREY_CARD, labels=("a", "b", "c"), logits=("logits",))

pytestmark = pytest.mark.slow


@pytest.fixture
def source(tmp_path: Path) -> Path:
    onnx.save(grey_classifier(), tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


@pytest.fixture
def repository(source: Path, tmp_path: Path) -> Path:
    export_bundle(source, tmp_path / "models", "net", card=CARD)
    return tmp_path / "models"


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    x = grey_pictures(96, seed=5)
    (logits,) = run32(grey_classifier(), {"input": GREY_CARD.standardise(x)})
    np.savez(tmp_path / "samples.npz", x=x, y=logits.argmax(axis=1))
    return tmp_path / "samples.npz"


def options(**changes: Any) -> PrecisionOptions:
    return PrecisionOptions(**{"force": True, "max_drop": 0.2, **changes})


def manifest_of(repository: Path, version: int) -> Manifest:
    return read_manifest(repository / "net" / str(version) / "manifest.json")


def rows(seed: int, count: int = 16) -> dict[str, np.ndarray]:
    return {"input": GREY_CARD.standardise(grey_pictures(count, seed))}


def test_version_in_int8_is_made_from_statistics_alone(repository: Path) -> None:
    found = quantize_bundle(repository, "net", options())

    assert found.path == repository / "net" / "2"
    manifest, before = manifest_of(repository, 2), manifest_of(repository, 1)
    assert manifest == found.manifest
    assert manifest.schema_version == 4
    assert manifest.precision is not None
    assert (manifest.precision.kind, manifest.precision.from_version) == (PrecisionKind.INT8, 1)
    assert manifest.precision.recipe.ranges_from == "statistics"
    proof = manifest.precision.proof
    assert (proof.rows_from, proof.agreement, proof.accuracy) == ("random", None, None)
    assert proof.outputs["logits"] > 20
    assert manifest.files["reference.onnx"] == before.files["model.onnx"]
    unchanged = {"unfolded.onnx", "statistics.safetensors", "monitor.onnx", "monitor.json"}
    assert {name: manifest.files[name] for name in unchanged} == {name: before.files[name] for name in unchanged}
    assert all(sha256_of(found.path / name) == digest for name, digest in manifest.files.items())
    assert (manifest.card, manifest.batchable, manifest.fold) == (before.card, before.batchable, before.fold)
    models = [onnx.load(repository / "net" / number / "model.onnx") for number in "12"]
    assert "QuantizeLinear" in {node.op_type for node in models[1].graph.node}
    wanted, got = (run32(each, rows(7), optimised=True)[0] for each in models)
    assert np.abs(wanted - got).max() < 0.1 * np.abs(wanted).max()


def test_samples_give_ranges_and_labels_give_the_change_of_accuracy(repository: Path, samples: Path) -> None:
    found = quantize_bundle(repository, "net", options(samples=samples))

    proof = found.precision.proof
    assert found.precision.recipe.ranges_from == "samples"
    assert (proof.rows, proof.rows_from) == (48, "samples")
    assert proof.accuracy is not None
    assert proof.accuracy.before == 1.0
    assert proof.agreement is not None
    assert proof.agreement.share == proof.accuracy.after


def test_samples_may_prove_ranges_from_statistics(repository: Path, samples: Path) -> None:
    found = quantize_bundle(repository, "net", options(samples=samples, ranges_from="statistics"))

    assert found.precision.recipe.ranges_from == "statistics"
    assert (found.precision.proof.rows, found.precision.proof.rows_from) == (96, "samples")


@pytest.mark.parametrize("float16_io", [False, True])
def test_version_in_float16_has_half_the_bytes(repository: Path, float16_io: bool) -> None:
    found = quantize_bundle(repository, "net", options(kind=PrecisionKind.FLOAT16, float16_io=float16_io))

    datatype = "FP16" if float16_io else "FP32"
    assert [spec.datatype for spec in (*found.manifest.inputs, *found.manifest.outputs)] == [datatype] * 2
    assert found.precision.proof.size_ratio < 0.65
    assert found.precision.proof.outputs["logits"] > 50
    assert found.precision.recipe.float16_io is float16_io


@pytest.fixture
def recorded(source: Path, tmp_path: Path) -> Path:
    """A repository whose version 1 holds ranges that were recorded on 64 rows."""
    record = RecordRanges(rows(5, count=64))
    export_bundle(source, tmp_path / "recorded", "net", card=CARD, record=record)
    return tmp_path / "recorded"


def test_recorded_ranges_are_taken_where_there_are_no_samples(recorded: Path, repository: Path) -> None:
    found = quantize_bundle(recorded, "net", options())
    again = quantize_bundle(recorded, "net", options())
    without = quantize_bundle(recorded, "net", options(ranges_from="statistics"), version=1)
    older = quantize_bundle(repository, "net", options())

    assert (found.precision.recipe.ranges_from, found.precision.range_rows) == ("recorded", 64)
    assert found.precision.proof.rows_from == "random"
    assert again.manifest.files["model.onnx"] == found.manifest.files["model.onnx"]
    assert (without.precision.recipe.ranges_from, without.precision.range_rows) == ("statistics", None)
    assert without.manifest.files["model.onnx"] != found.manifest.files["model.onnx"]
    assert without.manifest.files["model.onnx"] == older.manifest.files["model.onnx"]


def test_samples_come_before_recorded_ranges(recorded: Path, samples: Path) -> None:
    found = quantize_bundle(recorded, "net", options(samples=samples))
    compared = quantize_bundle(recorded, "net", options(samples=samples, ranges_from="recorded"))

    assert (found.precision.recipe.ranges_from, found.precision.range_rows) == ("samples", 48)
    assert (compared.precision.recipe.ranges_from, compared.precision.range_rows) == ("recorded", 64)
    assert (found.precision.proof.rows, compared.precision.proof.rows) == (48, 96)


def test_recorded_ranges_are_refused_where_none_are_recorded(repository: Path) -> None:
    with pytest.raises(QuantizeError, match="No ranges are recorded with this network.*`samples`, or `ranges` stat"):
        quantize_bundle(repository, "net", options(ranges_from="recorded"))


def test_recorded_ranges_are_those_of_the_samples_after_adapt(recorded: Path, tmp_path: Path) -> None:
    quantize_bundle(recorded, "net", options())
    np.savez(tmp_path / "brighter.npz", x=16 - grey_pictures(80, seed=6))

    adapted = adapt(recorded, "net", tmp_path / "brighter.npz").publish().manifest

    assert adapted.precision is not None
    assert (adapted.precision.recipe.ranges_from, adapted.precision.range_rows) == ("samples", 40)
    before, after = (read_recorded_ranges(recorded / "net" / n / "statistics.safetensors") for n in "13")
    assert before is not None
    assert after is not None
    assert after.rows == 80
    network = RecordRanges({"input": GREY_CARD.standardise(16 - grey_pictures(80, seed=6))})
    expected = network(recorded / "net" / "3" / "reference.onnx")
    assert expected is not None
    for name, each in expected.values.items():
        np.testing.assert_array_equal(after.values[name].low, each.low)
        np.testing.assert_array_equal(after.values[name].high, each.high)
    assert np.abs(before.values["r0"].high - after.values["r0"].high).max() > 0.01


def test_export_in_int8_takes_the_ranges_that_it_records(source: Path, tmp_path: Path) -> None:
    convert = conversion_of_rows(options(), rows(7), None, has_recorded=True)

    found = export_bundle(source, tmp_path / "int8", "net", card=CARD, convert=convert, record=RecordRanges(rows(5)))

    precision = found.manifest.precision
    assert precision is not None
    assert (precision.recipe.ranges_from, precision.range_rows, precision.proof.rows) == ("recorded", 16, 16)


def test_quantised_version_is_converted_again_from_its_reference(repository: Path) -> None:
    quantize_bundle(repository, "net", options())

    found = quantize_bundle(repository, "net", options(kind=PrecisionKind.FLOAT16))

    assert found.precision.from_version == 2
    assert manifest_of(repository, 3).files["reference.onnx"] == manifest_of(repository, 1).files["model.onnx"]


def test_version_without_a_reference_is_not_converted_again(repository: Path) -> None:
    found = quantize_bundle(repository, "net", options(), keep_reference=False)
    assert "reference.onnx" not in found.manifest.files

    with pytest.raises(QuantizeError, match=r"Version 2 of 'net' is int8 and keeps no float32 network \(`keep_ref"):
        quantize_bundle(repository, "net", options())
    with pytest.raises(UnfoldError, match="Version 2 of 'net' is int8 and keeps no float32 network"):
        unfold_bundle(repository, "net", repository / "unfolded.onnx")
    assert quantize_bundle(repository, "net", options(), version=1).manifest.version == 3


def test_version_without_its_unfolded_model_is_converted_from_its_statistics(source: Path, tmp_path: Path) -> None:
    export_bundle(source, tmp_path / "models", "net", card=CARD, keep_source=False)

    found = quantize_bundle(tmp_path / "models", "net", options())

    assert found.precision.proof.outputs["logits"] > 20


def test_int8_of_pixels_takes_pixels(source: Path, tmp_path: Path, samples: Path) -> None:
    export_bundle(source, tmp_path / "models", "net", card=CARD, takes_pixels=True)

    found = quantize_bundle(tmp_path / "models", "net", options(samples=samples))

    assert [spec.datatype for spec in found.manifest.inputs] == ["UINT8"]
    assert found.precision.proof.accuracy is not None
    assert found.precision.proof.accuracy.after > 0.9
    statistics = quantize_bundle(tmp_path / "models", "net", options())
    assert statistics.precision.proof.outputs["logits"] > 20


def test_refused_version_leaves_nothing_behind(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PrecisionLossError("Too far")

    monkeypatch.setattr(lower_precision, "require", refuse)
    with pytest.raises(PrecisionLossError, match="Too far. Nothing was written."):
        quantize_bundle(repository, "net", options())

    assert [path.name for path in (repository / "net").iterdir()] == ["1"]


def test_int8_that_is_not_faster_is_refused_without_force(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from normfold.export.quantize.proof import prove

    monkeypatch.setattr(prove, "measure_time_ratio", lambda *_: 1.01)
    with pytest.raises(PrecisionLossError, match="The int8 network is not faster than float32 on this processor"):
        quantize_bundle(repository, "net", options(force=False))
    assert quantize_bundle(repository, "net", options()).precision.recipe.force


@pytest.mark.parametrize(
    ("arrays", "error", "message"),
    [
        ({"x": grey_pictures(31, 0)}, SampleCountError, "31 samples are too few"),
        ({"x": np.zeros((40, 1, 7, 7), np.float32)}, SampleError, "one sample is"),
        ({"x": grey_pictures(40, 0), "y": np.zeros(39, np.int64)}, SampleError, r"40 samples and labels 'y' of shape"),
        ({"x": grey_pictures(40, 0), "y": np.full(40, 3)}, SampleError, "are not the classes of an output"),
    ],
)
def test_wrong_samples_are_named(
    repository: Path, tmp_path: Path, arrays: dict[str, np.ndarray], error: type[Exception], message: str
) -> None:
    np.savez(tmp_path / "wrong.npz", allow_pickle=False, **arrays)

    with pytest.raises(error, match=message):
        quantize_bundle(repository, "net", options(samples=tmp_path / "wrong.npz"))
    assert [path.name for path in (repository / "net").iterdir()] == ["1"]


def test_ranges_from_samples_need_samples(repository: Path) -> None:
    with pytest.raises(QuantizeError, match="none are given: name them with `samples`"):
        quantize_bundle(repository, "net", options(ranges_from="samples"))


@pytest.mark.parametrize("kind", [PrecisionKind.INT8, PrecisionKind.FLOAT16])
@pytest.mark.parametrize("takes_pixels", [False, True])
def test_adapted_version_is_converted_by_the_same_recipe(
    source: Path, tmp_path: Path, samples: Path, kind: PrecisionKind, takes_pixels: bool
) -> None:
    repository = tmp_path / "models"
    export_bundle(source, repository, "net", card=CARD, takes_pixels=takes_pixels)
    first = quantize_bundle(repository, "net", options(kind=kind, samples=samples))

    adapted = adapt(repository, "net", samples).publish().manifest

    assert adapted.adapted is not None
    assert adapted.adapted.from_version == 2
    assert adapted.precision is not None
    assert (adapted.precision.kind, adapted.precision.recipe) == (kind, first.precision.recipe)
    assert adapted.precision.from_version is None
    assert adapted.takes_pixels is takes_pixels
    assert adapted.files.keys() == {*manifest_of(repository, 2).files, "trained.safetensors"}
    assert adapted.files["reference.onnx"] != manifest_of(repository, 2).files["reference.onnx"]
    assert adapted.precision.proof.rows_from == "samples"


def test_adapted_version_keeps_no_reference_where_the_first_kept_none(repository: Path, samples: Path) -> None:
    quantize_bundle(repository, "net", options(), keep_reference=False)

    adapted = adapt(repository, "net", samples).publish().manifest

    assert "reference.onnx" not in adapted.files


def test_copy_of_a_quantised_version_keeps_its_precision(repository: Path) -> None:
    first = quantize_bundle(repository, "net", options())
    quantize_bundle(repository, "net", options(kind=PrecisionKind.FLOAT16))

    copy = roll_back(repository, "net", to=2).manifest

    assert (copy.copy_of, copy.precision, copy.files) == (2, first.precision, first.manifest.files)


def test_unfolded_network_of_a_quantised_version_is_verified_with_its_reference(repository: Path) -> None:
    quantize_bundle(repository, "net", options())

    found = unfold_bundle(repository, "net", repository / "unfolded.onnx")

    assert found.verification.passes
