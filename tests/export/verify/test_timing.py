"""Timings of a run before and after a fold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from normfold.export.errors import ModelFileError
from normfold.export.files.fold_file import fold_file
from normfold.export.verify import timing
from normfold.export.verify.timing import MIN_RUNS, time_models
from tests.support.onnx_models import small_convnet


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write a small network; timings end after the fewest runs."""
    monkeypatch.setattr(timing, "SECONDS", 0.0)
    onnx.save(small_convnet(np.random.default_rng(0)), tmp_path / "a.onnx")
    return tmp_path / "a.onnx"


def test_timing_is_the_median_of_both(net: Path) -> None:
    found = time_models(net, net)

    assert found.runs == MIN_RUNS
    assert 0 < found.before_ms < 1000
    assert 0 < found.after_ms < 1000
    assert found.to_dict() == {"before_ms": found.before_ms, "after_ms": found.after_ms, "runs": MIN_RUNS}


def test_timing_takes_turns_and_the_median(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    clock = [0.0]

    def run(name: str, seconds: list[float]) -> None:
        order.append(name)
        clock[0] += seconds.pop(0)

    monkeypatch.setattr("normfold.export.verify.timing.time.perf_counter", lambda: clock[0])
    monkeypatch.setattr(timing, "SECONDS", 0.0)
    slow, fast = [9.0, 9.0, *[0.004] * 9, 7.0], [9.0, 9.0, *[0.002] * 9, 7.0]

    found = timing._time(lambda: run("before", slow), lambda: run("after", fast))

    assert (found.before_ms, found.after_ms) == pytest.approx((4.0, 2.0))
    assert order[4:8] == ["before", "after", "after", "before"]


def test_timing_takes_the_users_inputs(net: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.zeros((1, 4, 5, 5), np.float32))

    assert time_models(net, net, tmp_path / "x.npz").runs == MIN_RUNS


def test_timing_of_what_onnxruntime_cannot_run_is_a_warning(tmp_path: Path) -> None:
    onnx.save(small_convnet(np.random.default_rng(0), dtype=np.float64), tmp_path / "a.onnx")

    with pytest.raises(ModelFileError, match="cannot be timed by ONNX Runtime"):
        time_models(tmp_path / "a.onnx", tmp_path / "a.onnx")
    folded = fold_file(tmp_path / "a.onnx", tmp_path / "b.onnx", timed=True)
    assert folded.timing is None
    assert folded.report.warnings[-1].startswith(
        "The models were not timed: the source cannot be timed by ONNX Runtime"
    )
    assert (tmp_path / "b.onnx").exists()


def test_timing_is_part_of_a_fold_where_it_is_asked_for(net: Path, tmp_path: Path) -> None:
    assert fold_file(net, tmp_path / "b.onnx").timing is None
    assert fold_file(net, tmp_path / "b.onnx", timed=True).timing is not None
