"""Verdicts, estimates and tables from given numbers."""

from __future__ import annotations

import csv
import io
import json
import math

import pytest

from normfold.models.study.result import (
    Check,
    Estimate,
    ExperimentResult,
    Table,
    Verdict,
    estimate,
    format_number,
    judge,
)


@pytest.mark.parametrize(
    ("differences", "verdict"),
    [
        ([1.0, 1.1, 0.9], Verdict.SUPPORTED),
        ([0.5, 0.5, 0.5], Verdict.SUPPORTED),
        ([-1.0, -1.1, -0.9], Verdict.CONTRADICTED),
        ([1.0, -1.0, 0.1], Verdict.NOT_SUPPORTED),
        ([0.0, 0.0, 0.0], Verdict.NOT_SUPPORTED),
        ([5.0], Verdict.NOT_SUPPORTED),
        ([1.0, math.nan, 1.0], Verdict.NOT_SUPPORTED),
        ([1.0, math.inf, 1.0], Verdict.NOT_SUPPORTED),
    ],
)
def test_verdict_is_computed_from_the_differences(differences: list[float], verdict: Verdict) -> None:
    assert judge(differences) is verdict


def test_limit_of_a_verdict_is_two_standard_errors() -> None:
    spread = [-1.0, 0.0, 1.0]  # standard error 1 / sqrt(3) = 0.577, twice it 1.155
    assert judge([value + 1.16 for value in spread]) is Verdict.SUPPORTED
    assert judge([value + 1.15 for value in spread]) is Verdict.NOT_SUPPORTED
    assert judge([value - 1.15 for value in spread]) is Verdict.NOT_SUPPORTED
    assert judge([value - 1.16 for value in spread]) is Verdict.CONTRADICTED


def test_estimate_is_the_mean_and_its_standard_error() -> None:
    found = estimate([1.0, 2.0, 3.0, 4.0])
    assert found.mean == 2.5
    assert found.error == pytest.approx(math.sqrt(5 / 3) / 2)
    assert math.isnan(estimate([1.0]).error)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (Estimate(0.95312, 0.00413), "0.9531 ± 0.0041"),
        (Estimate(-12.0, 8.6), "−12.0 ± 8.6"),
        (Estimate(300.0, 0.0), "300 ± 0"),
        (Estimate(math.nan, math.nan), "–"),
        (Estimate(1295.8, 23.0), "1,296 ± 23"),
    ],
)
def test_estimate_is_formatted_to_two_digits_of_its_error(given: Estimate, text: str) -> None:
    assert str(given) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [(0.9996, "1.00"), (0.0, "0"), (1259, "1,259"), (0.02134, "0.0213"), (1e-9, "1.0e−09"), (math.inf, "–")],
)
def test_number_is_formatted_with_three_digits(number: float, text: str) -> None:
    assert format_number(number) == text


def test_table_row_needs_a_cell_for_each_column() -> None:
    with pytest.raises(ValueError, match="does not have one cell for each of 2 columns"):
        Table(("a", "b"), ((1, 2), (3,)))


def test_csv_has_standard_errors_beside_means() -> None:
    table = Table(("name", "accuracy"), (("x, y", Estimate(0.5, 0.1)), ("z", 1.0)))
    assert list(csv.reader(io.StringIO(table.to_csv()))) == [
        ["name", "accuracy", "accuracy: standard error"],
        ["x, y", "0.5", "0.1"],
        ["z", "1.0", ""],
    ]


def test_result_with_missing_numbers_is_valid_json() -> None:
    check = Check("claim", "source", "a − b", (1.0, math.nan))
    table = Table(("name", "value"), (("x", Estimate(math.nan, math.nan)),))
    found = ExperimentResult("name", "Title", "method", table, "caption", b"", (check,)).to_dict()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["rows"] == [["x", {"mean": None, "standard_error": None}]]
    assert found["checks"][0]["verdict"] == "not supported on these data"
