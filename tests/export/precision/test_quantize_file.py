"""Files in a lower precision: folded on the way, from any exporter; a refusal names the file and leaves the target."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from normfold.contract.errors import WriteError
from normfold.contract.precision.record import PrecisionKind
from normfold.contract.source_card import SourceCard
from normfold.export.errors import (
    Float16OverflowError,
    ModelFileError,
    PrecisionLossError,
    QuantizeError,
)
from normfold.export.files.fold_file import fold_file
from normfold.export.precision.options import PrecisionOptions
from normfold.export.precision.quantize_file import quantize_file
from normfold.export.quantize.proof import prove
from tests.support.onnx_models import (
    GREY_CARD,
    batchnorm,
    grey_classifier,
    grey_pictures,
    model,
    run32,
    statistics,
    with_statistics_of,
)

pytestmark = pytest.mark.slow


@pytest.fixture
def source(tmp_path: Path) -> Path:
    onnx.save(grey_classifier(), tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


def options(**changes: Any) -> PrecisionOptions:
    return PrecisionOptions(**{"force": True, "max_drop": 0.2, **changes})


def test_file_is_folded_and_quantised_from_its_own_statistics(source: Path, tmp_path: Path) -> None:
    found = quantize_file(source, tmp_path / "int8.onnx", options())

    assert (found.report.batchnorm_before, found.report.batchnorm_after) == (2, 0)
    assert found.verification.passes
    assert found.precision.proof.outputs["logits"] > 20
    inputs = {"input": GREY_CARD.standardise(grey_pictures(16, 7))}
    (wanted,), (got,) = (run32(onnx.load(path), inputs) for path in (source, tmp_path / "int8.onnx"))
    assert np.abs(wanted - got).max() < 0.1 * np.abs(wanted).max()


def test_outputs_that_are_probabilities_are_named_where_ranges_come_from_statistics(tmp_path: Path) -> None:
    proto = grey_classifier()
    proto.graph.node.append(helper.make_node("Softmax", ["logits"], ["p"], axis=1))
    proto.graph.output[0].name = "p"
    onnx.save(proto, tmp_path / "net.onnx")
    np.savez(tmp_path / "samples.npz", x=grey_pictures(64, 3))
    card = SourceCard(preprocessing=GREY_CARD)

    found = quantize_file(tmp_path / "net.onnx", tmp_path / "int8.onnx", options(), card)
    sampled = quantize_file(
        tmp_path / "net.onnx", tmp_path / "int8.onnx", options(samples=tmp_path / "samples.npz"), card
    )

    assert any(note.startswith("Output 'p' holds probabilities") for note in found.precision.proof.notes)
    assert sampled.precision.proof.notes == ()


def test_card_of_a_file_gives_the_range_of_its_input_and_its_classes(source: Path, tmp_path: Path) -> None:
    x = grey_pictures(64, 3)
    np.savez(tmp_path / "samples.npz", x=x)
    card = SourceCard(preprocessing=GREY_CARD, logits=("logits",))

    found = quantize_file(source, tmp_path / "int8.onnx", options(samples=tmp_path / "samples.npz"), card)

    assert found.precision.proof.agreement is not None
    assert found.precision.recipe.ranges_from == "samples"


def test_file_in_float16_is_half_as_large(source: Path, tmp_path: Path) -> None:
    found = quantize_file(source, tmp_path / "half.onnx", options(kind=PrecisionKind.FLOAT16))

    assert found.precision.proof.size_ratio < 0.65
    assert (tmp_path / "half.onnx").stat().st_size < 0.65 * source.stat().st_size


def test_folded_file_needs_samples(source: Path, tmp_path: Path) -> None:
    folded = tmp_path / "folded.onnx"
    fold_file(source, folded)

    with pytest.raises(QuantizeError, match=r"'.*/folded\.onnx' .*samples") as raised:
        quantize_file(folded, tmp_path / "int8.onnx", options())
    assert "normfold-" not in str(raised.value)
    assert not (tmp_path / "int8.onnx").exists()
    np.savez(tmp_path / "samples.npz", input=GREY_CARD.standardise(grey_pictures(64, 3)))
    assert quantize_file(folded, tmp_path / "int8.onnx", options(samples=tmp_path / "samples.npz")).precision


@pytest.mark.parametrize("kind", [PrecisionKind.INT8, PrecisionKind.FLOAT16])
def test_network_of_a_fixed_batch_size_is_compared_in_whole_batches(kind: PrecisionKind, tmp_path: Path) -> None:
    proto = grey_classifier()
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 4
    del proto.graph.value_info[:]
    onnx.save(proto, tmp_path / "net.onnx")

    found = quantize_file(tmp_path / "net.onnx", tmp_path / "made.onnx", options(kind=kind))

    assert set(found.precision.proof.time_ratio) == {4}
    assert found.precision.proof.outputs["logits"] > 20


def test_rows_that_depend_on_each_other_are_compared_one_by_one(tmp_path: Path) -> None:
    proto = grey_classifier()
    proto.graph.node.extend(
        [
            helper.make_node("ReduceMax", ["logits"], ["m"], axes=[0], keepdims=1),
            helper.make_node("Add", ["logits", "m"], ["z"]),
        ]
    )
    proto.graph.output[0].name = "z"
    onnx.save(proto, tmp_path / "net.onnx")

    found = quantize_file(tmp_path / "net.onnx", tmp_path / "int8.onnx", options())

    assert set(found.precision.proof.time_ratio) == {1}


def test_refused_file_leaves_the_target_as_it_was(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "int8.onnx"
    target.write_bytes(b"before")
    monkeypatch.setattr(prove, "measure_time_ratio", lambda *_: 1.5)

    with pytest.raises(PrecisionLossError, match="not faster"):
        quantize_file(source, target, options(force=False))

    assert target.read_bytes() == b"before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["int8.onnx", "net.onnx"]


def test_network_without_layers_has_nothing_to_quantise(tmp_path: Path) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    onnx.save(model(nodes, {"x": ["n", 4]}, ["y"], {}, dtype=np.float32), tmp_path / "relu.onnx")

    with pytest.raises(QuantizeError, match=r"'.*relu\.onnx' holds nothing to quantise"):
        quantize_file(tmp_path / "relu.onnx", tmp_path / "int8.onnx", options())


@pytest.mark.parametrize("inputs", ["a", "ab"])
def test_network_whose_values_all_have_statistics_is_quantised(inputs: str, tmp_path: Path) -> None:
    """Nothing is left to run for ranges."""
    rng = np.random.default_rng(0)
    nodes = [helper.make_node("MatMul", [name, f"w{name}"], [f"h{name}"]) for name in inputs]
    if len(inputs) > 1:
        nodes.append(helper.make_node("Add", ["ha", "hb"], ["h"]))
    nodes.append(batchnorm("h" if len(inputs) > 1 else "ha", "y"))
    weights = {f"w{name}": rng.normal(size=(4, 3)).astype(np.float32) for name in inputs}
    constants = weights | statistics(rng, 3, dtype=np.float32)
    proto = model(nodes, {name: ["n", 4] for name in inputs}, ["y"], constants, dtype=np.float32)
    rows = {name: rng.normal(size=(256, 4)).astype(np.float32) for name in inputs}
    onnx.save(with_statistics_of(proto, rows), tmp_path / "net.onnx")

    found = quantize_file(tmp_path / "net.onnx", tmp_path / "int8.onnx", options())

    assert found.precision.proof.outputs["y"] > 20


def test_overflow_of_float16_names_node_and_value(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"], name="large"), helper.make_node("Relu", ["h"], ["y"])]
    weight = {"w": np.full((4, 4), 30000.0, np.float32)}
    onnx.save(model(nodes, {"x": ["n", 4]}, ["y"], weight, dtype=np.float32), tmp_path / "net.onnx")

    with pytest.raises((ModelFileError, Float16OverflowError), match="'large'.*'h'"):
        quantize_file(tmp_path / "net.onnx", tmp_path / "half.onnx", options(kind=PrecisionKind.FLOAT16))
    assert not (tmp_path / "half.onnx").exists()


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="missing.onnx"):
        quantize_file(tmp_path / "missing.onnx", tmp_path / "int8.onnx", options())


def test_target_that_is_a_folder_is_refused(source: Path, tmp_path: Path) -> None:
    with pytest.raises(WriteError, match="it is a folder"):
        quantize_file(source, tmp_path, options())
