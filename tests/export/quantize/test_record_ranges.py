"""Ranges that are recorded on data give the int8 network that the same data give as samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from normfold.export.errors import QuantizeError
from normfold.export.files.fold_file import fold_file
from normfold.export.quantize.int8.quantize import quantize_int8
from normfold.export.quantize.int8.result import RangeSource
from normfold.export.quantize.record_ranges import RecordRanges, as_channel_ranges
from tests.support.onnx_models import GREY_CARD, classifier, classifier_rows, grey_classifier, grey_pictures, model


@pytest.fixture
def folded(tmp_path: Path) -> Path:
    onnx.save(classifier(np.random.default_rng(0)), tmp_path / "net.onnx")
    fold_file(tmp_path / "net.onnx", tmp_path / "folded.onnx")
    return tmp_path / "folded.onnx"


@pytest.mark.slow
def test_recorded_ranges_give_the_same_network_as_samples(folded: Path, tmp_path: Path) -> None:
    rows = classifier_rows(np.random.default_rng(1), 64)
    recorded = RecordRanges(rows)(folded)
    assert recorded is not None
    assert recorded.rows == 64
    paths = [tmp_path / f"{name}.onnx" for name in ("samples", "recorded", "other")]

    quantize_int8(folded, paths[0], samples=rows)
    found = quantize_int8(folded, paths[1], recorded=as_channel_ranges(recorded))
    quantize_int8(folded, paths[2], samples=classifier_rows(np.random.default_rng(2), 64))

    assert found.range_source is RangeSource.RECORDED
    assert paths[0].read_bytes() == paths[1].read_bytes() != paths[2].read_bytes()


def test_recorded_ranges_that_lack_a_value_are_refused(folded: Path, tmp_path: Path) -> None:
    recorded = RecordRanges(classifier_rows(np.random.default_rng(1), 32))(folded)
    assert recorded is not None
    ranges = as_channel_ranges(recorded)
    del ranges["r0"]

    with pytest.raises(QuantizeError, match="recorded with '.*folded.onnx' lack the value 'r0'; give `samples`"):
        quantize_int8(folded, tmp_path / "int8.onnx", recorded=ranges)
    assert not (tmp_path / "int8.onnx").exists()


def test_ranges_are_not_recorded_where_they_are_not_finite(tmp_path: Path) -> None:
    nodes = [helper.make_node("Log", ["x"], ["h"]), helper.make_node("MatMul", ["h", "w"], ["y"])]
    onnx.save(
        model(nodes, {"x": ["n", 4]}, ["y"], {"w": np.eye(4, dtype=np.float32)}, dtype=np.float32), tmp_path / "n"
    )

    assert RecordRanges({"x": np.ones((32, 4), np.float32)})(tmp_path / "n") is not None
    assert RecordRanges({"x": np.zeros((32, 4), np.float32)})(tmp_path / "n") is None


def test_ranges_are_not_recorded_on_rows_of_another_network(tmp_path: Path) -> None:
    onnx.save(grey_classifier(), tmp_path / "net.onnx")

    assert RecordRanges({"input": GREY_CARD.standardise(grey_pictures(32, 0))[..., :7]})(tmp_path / "net.onnx") is None
