"""Ranges beside the statistics of a bundle: read as written, absent in older bundles, in the way of nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir

from normfold.export.bundle.recorded_ranges import RecordedRange, RecordedRanges, read_recorded_ranges
from normfold.export.bundle.statistics import read_merging, read_statistics, save_statistics
from normfold.export.fold.fold import fold
from normfold.export.fold.report import FoldReport
from tests.support.onnx_models import small_convnet


def report_of_a_fold() -> FoldReport:
    return fold(ir.from_proto(small_convnet(np.random.default_rng(0))))


def test_recorded_ranges_are_read_as_written(tmp_path: Path) -> None:
    low, mean = np.array([-1.5, 0.25]), np.array([1 / 3, 0.5])
    values = {"a/b.relu": RecordedRange(low, low + 2, mean), "bn": RecordedRange(low[:1], low[:1], mean[:1])}
    path = tmp_path / "statistics.safetensors"

    save_statistics(report_of_a_fold(), path, merging=False, recorded=RecordedRanges(200, values))

    found = read_recorded_ranges(path)
    assert found is not None
    assert found.rows == 200
    assert found.values.keys() == values.keys()
    for name, each in values.items():
        got = found.values[name]
        for one, other in ((each.low, got.low), (each.high, got.high), (each.mean, got.mean)):
            np.testing.assert_array_equal(one, other)
            assert other.dtype == np.float64
    assert [each.node for each in read_statistics(path)] == ["bn"]
    assert read_merging(path) is False


def test_recorded_ranges_are_none_in_a_bundle_that_holds_none(tmp_path: Path) -> None:
    save_statistics(report_of_a_fold(), tmp_path / "statistics.safetensors", merging=True)

    assert read_recorded_ranges(tmp_path / "statistics.safetensors") is None
