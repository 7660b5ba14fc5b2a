"""`normfold study`: the report, and what is said where there can be none."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from normfold.cli.study.cost import COLUMNS, run_cost
from normfold.models.study import experiments
from normfold.models.study.plots import Bars, Series, draw
from normfold.models.study.result import Check, ExperimentResult, Table
from tests.support.command import Page, RunCommand

Run = Callable[..., tuple[int, str, str]]

NAMES = [
    "layer-inputs", "convergence", "learning-rates", "initial-weights", "regularisation", "generalisation",
    "batch-sizes", "serving-modes", "cost",
]  # fmt: skip


def made_up(name: str, differences: tuple[float, ...]) -> ExperimentResult:
    plot = draw([Bars("Bars", "value", ["a"], [Series("s", [[1.0]])])])
    check = Check(f"The claim of {name}.", "Nobody 2026", "a − b", differences)
    return ExperimentResult(
        name, f"Title of {name}", "method", Table(("a", "b"), (("x", 0.5),)), "caption", plot, (check,)
    )


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put results of made-up numbers in the experiments' place: theirs are tested where they are."""
    outcomes = [(1.0, 1.1), (-1.0, -1.1), (1.0, -1.0)]
    results = {name: made_up(name, outcomes[number % 3]) for number, name in enumerate(NAMES[:-1])}
    runs = {name: lambda _seeds, _steps, name=name: results[name] for name in results}
    monkeypatch.setattr(experiments, "EXPERIMENTS", runs)
    monkeypatch.setattr("normfold.cli.study.cost.run_cost", lambda _seeds, _rounds: made_up("cost", (1.0, 1.1)))


@pytest.mark.slow
@pytest.mark.usefixtures("short")
def test_the_report_has_nine_sections_each_with_its_picture(normfold: RunCommand, tmp_path: Path) -> None:
    code, out, err = normfold("study", "--out", "report/new", "--json")

    assert code == 0
    assert "9 of 9: cost" in err
    folder = tmp_path / "report" / "new"
    page = Page((folder / "index.html").read_text())
    assert [name for name in page.values("id") if name in NAMES] == NAMES
    pictures = page.values("src")
    assert len(pictures) == 9
    for name, picture in zip(NAMES, pictures, strict=True):
        data = base64.b64decode(picture.removeprefix("data:image/png;base64,"))
        assert data == (folder / f"{name}.png").read_bytes()
        assert Image.open(io.BytesIO(data)).width > 500
        assert (folder / f"{name}.csv").read_text() == "a,b\nx,0.5\n"
    assert json.loads(out) == json.loads((folder / "study.json").read_text())


@pytest.mark.slow
@pytest.mark.usefixtures("short")
def test_page_has_every_verdict_and_loads_nothing_from_other_hosts(normfold: RunCommand, tmp_path: Path) -> None:
    assert normfold("study", "--out", "report")[0] == 0

    text = (tmp_path / "report" / "index.html").read_text()
    page = Page(text)
    assert page.text.count("supported: a − b: 1.050 ± 0.050") == 4
    assert page.text.count("contradicted: a − b: −1.050 ± 0.050") == 3
    assert page.text.count("not supported on these data: a − b: 0.0 ± 1.0") == 2
    assert "10 seeds" in page.text
    assert "is above 2 standard errors" in page.text
    assert not re.search(r"https?:|@import|url\(", text)
    assert not {"script", "link", "iframe", "object", "base", "form"} & set(page.tags)
    assert {value[1:] for value in page.values("href")} == set(NAMES)


@pytest.mark.slow
@pytest.mark.usefixtures("short")
def test_the_terminal_shows_claims_and_verdicts(normfold: RunCommand) -> None:
    code, out, _ = normfold("study", "--out", "report", "--quick")

    assert code == 0
    assert "contradicted" in out
    assert "report/index.html" in out


@pytest.mark.slow
@pytest.mark.usefixtures("short")
def test_a_folder_that_cannot_be_written_is_named(normfold: RunCommand, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")

    code, out, err = normfold("study", "--out", "taken")
    assert code == 3
    assert out == ""
    assert err.startswith("error: ")
    assert "'taken'" in err
    assert normfold("study", "--out", "taken/below")[0] == 3
    assert (tmp_path / "taken").read_text() == "a file"


def test_study_with_one_seed_is_rejected(normfold: RunCommand, tmp_path: Path) -> None:
    code, _, err = normfold("study", "--out", "report", "--seeds", "1")

    assert code == 2
    assert "--seeds" in err
    assert not (tmp_path / "report").exists()


@pytest.mark.slow
def test_cost_is_measured_in_training_and_in_inference() -> None:
    found = run_cost((0,), rounds=1)

    assert found.table.columns == COLUMNS
    assert len(found.table.rows) == 10
    assert [len(check.differences) for check in found.checks] == [1, 1, 1, 1]
    by_name = {str(row[0]): row for row in found.table.rows}
    assert by_name["model file, KiB"][1].mean > by_name["model file, KiB"][2].mean  # type: ignore[union-attr]
