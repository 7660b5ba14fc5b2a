"""The search over candidates, without sessions: what is tried over what, and for how long."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from normfold.service.runtime.tuning.report import Trial, Tuning
from normfold.service.runtime.tuning.search import try_candidates
from normfold.service.runtime.tuning.timing import is_faster, time_in_turns

A, B, C = {"a": "1"}, {"b": "1"}, {"c": "1"}


def outcomes(problems: Mapping[str, str], candidates: list[dict[str, str]], max_seconds: float = 100) -> list[Trial]:
    """Try candidates whose problems are known by the name tried last; each attempt takes 3 seconds."""
    clock = [0.0]

    def attempt(options: Mapping[str, str]) -> Trial:
        clock[0] += 3
        return Trial(options, problems.get(list(options)[-1], ""))

    return try_candidates(candidates, attempt, max_seconds, lambda: clock[0])


def test_candidate_is_tried_over_those_that_were_kept() -> None:
    trials = outcomes({"b": "not faster"}, [A, B, C])
    assert [trial.options for trial in trials] == [A, A | B, A | C]
    assert [trial.is_kept for trial in trials] == [True, False, True]


@pytest.mark.parametrize(("max_seconds", "attempts"), [(0.1, 1), (3, 1), (3.1, 2), (7, 3)])
def test_search_starts_no_attempt_after_its_seconds(max_seconds: float, attempts: int) -> None:
    problems = [trial.problem for trial in outcomes({}, [A, B, C], max_seconds)]
    assert problems == [""] * attempts + [f"not tried: {max_seconds:g} s were used up"] * (3 - attempts)


@pytest.mark.parametrize(
    ("before", "after", "faster"),
    [
        ({1: 1.0}, {1: 0.96}, True),
        ({1: 1.0}, {1: 0.98}, False),
        ({1: 1.0, 8: 4.0}, {1: 1.1, 8: 2.0}, True),
        ({1: 1.0, 8: 4.0}, {1: 2.0, 8: 2.0}, False),
        ({1: 1.0, 8: 4.0}, {1: 0.5, 8: 7.9}, False),
    ],
)
def test_gain_is_the_geometric_mean_over_rows(before: dict[int, float], after: dict[int, float], faster: bool) -> None:
    assert is_faster(before, after) is faster


def test_times_are_the_fastest_of_runs_in_turns_without_the_first() -> None:
    calls, now = list[str](), [0.0]
    seconds = {"one": iter([9, 5, 4, 6, 5, 5, 5, 5]), "other": iter([1, 3, 2, 3, 3, 3, 3, 3])}

    def run(name: str) -> None:
        calls.append(name)
        now[0] += next(seconds[name]) / 1000

    times = time_in_turns(lambda: run("one"), lambda: run("other"), lambda: now[0])
    assert times == pytest.approx((0.004, 0.002))
    assert calls == ["one", "other"] * 8


def test_timing_of_slow_runs_ends_after_a_round() -> None:
    now, calls = [0.0], [0]

    def run() -> None:
        calls[0] += 1
        now[0] += 30

    assert time_in_turns(run, run, lambda: now[0]) == (30, 30)
    assert calls[0] == 4


def test_report_names_times_and_reasons() -> None:
    tuning = Tuning(
        [Trial({"prefer_nhwc": "1"}, "", {1: 2e-3, 8: 4e-3}, {1: 1e-3, 8: 3e-3}), Trial(A | B, "not faster")],
        {1: Trial({"enable_cuda_graph": "1"}, "not faster", {1: 1e-3}, {1: 1.25e-3})},
    )
    assert tuning.describe() == {
        "prefer_nhwc=1": "kept (1 row 1.000 ms instead of 2.000, 8 rows 3.000 ms instead of 4.000)",
        "a=1, b=1": "not kept, not faster",
        "enable_cuda_graph=1 (1 row)": "not kept, not faster (1 row 1.250 ms instead of 1.000)",
    }
    assert str(tuning).startswith("prefer_nhwc=1: kept (")
    assert str(Tuning()) == ""
