"""The batch size of a model, chosen by timed runs."""

from __future__ import annotations

import pytest

from normfold.service.batching import batch_size_tuning as tuning
from normfold.service.batching.batch_size_tuning import choose_batch_size, has_shape_switch_penalty, time_batch_sizes


@pytest.mark.parametrize(
    ("measured", "best"),
    [
        ({1: 1.0}, 1),
        ({1: 1.0, 2: 1.99}, 1),
        ({1: 0.0165, 2: 0.033}, 2),  # the overhead of a run is shared
        ({1: 0.0337, 2: 0.0665}, 2),  # that, and weights are read once for both
        ({1: 1.0, 2: 1.5, 4: 2.0, 8: 3.99}, 4),
        ({1: 1.0, 2: 1.9, 4: 3.0}, 4),
        ({1: 1.0, 2: 2.5, 4: 1.0, 8: 2.0}, 4),
    ],
)
def test_batch_size_is_the_smallest_with_the_cheapest_rows(measured: dict[int, float], best: int) -> None:
    assert choose_batch_size(measured) == best


def test_batch_sizes_are_doubled_up_to_the_maximum() -> None:
    rows_run: list[int] = []

    measured = time_batch_sizes(rows_run.append, max_batch_size=6)

    assert set(measured) <= {1, 2, 4}
    assert max(rows_run) <= 4


def test_first_run_of_a_batch_size_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, where it chooses algorithms."""
    now, seen = 0.0, set()
    monkeypatch.setattr(tuning, "perf_counter", lambda: now)

    def run(rows: int) -> None:
        nonlocal now
        now += 0.002 if rows in seen else 0.5
        seen.add(rows)

    assert time_batch_sizes(run, max_batch_size=32) == pytest.approx(dict.fromkeys((1, 2, 4, 8, 16, 32), 0.002))


@pytest.mark.parametrize(("switched_s", "has_penalty"), [(0.05, True), (0.003, False)])
def test_shape_switch_penalty_is_a_run_twice_as_long(
    monkeypatch: pytest.MonkeyPatch, switched_s: float, has_penalty: bool
) -> None:
    now, last = 0.0, 0
    monkeypatch.setattr(tuning, "perf_counter", lambda: now)

    def run(rows: int) -> None:
        nonlocal now, last
        now += 0.002 if rows == last else switched_s
        last = rows

    assert has_shape_switch_penalty(run, (1, 2, 4)) is has_penalty
