"""Reason codes: each is described and used, and a report, a table and a page have it beside the sentence."""

from __future__ import annotations

import re

import numpy as np
import pytest

from normfold.display.pages.batchnorm_outcomes import batchnorm_table, descriptions
from normfold.display.terminal.fold import kept_by_reason
from normfold.export.fold.reason_codes import ReasonCode, reason_codes
from normfold.export.fold.report import BatchNormOutcome, Outcome
from tests.support.onnx_models import batchnorm, folded, model, statistics
from tests.support.paths import ROOT

SOURCES = [path.read_text() for path in (ROOT / "export" / "fold").rglob("*.py") if path.name != "reason_codes.py"]


@pytest.mark.parametrize("code", ReasonCode)
def test_reason_code_is_described_in_sentences(code: ReasonCode) -> None:
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", code.value)
    assert code.value == code.name.lower().replace("_", "-")
    assert re.match(r"[A-Z`].*\.$", code.description)
    assert len(re.findall(r"\.(?: |$)", code.description)) >= 1


@pytest.mark.parametrize("code", ReasonCode)
def test_reason_code_is_used_by_the_fold(code: ReasonCode) -> None:
    assert any(f"ReasonCode.{code.name}" in source for source in SOURCES)


def test_reason_codes_yields_each_code_with_its_description() -> None:
    assert list(reason_codes()) == [(code.value, code.description) for code in ReasonCode]
    assert len({description for _, description in reason_codes()}) == len(ReasonCode)


def test_kept_batchnorm_has_a_reason_code_for_each_direction() -> None:
    source = model([batchnorm("x", "y")], {"x": ["n", 2, 4, 4]}, ["y"], statistics(np.random.default_rng(0), 2))

    (entry,) = folded(source)[1].entries

    assert entry.reason_codes == (ReasonCode.GRAPH_INPUT, ReasonCode.GRAPH_OUTPUT)
    assert entry.to_dict()["reason_code"] == "graph-input/graph-output"
    assert entry.reason is not None
    assert entry.reason.startswith("Backwards: BatchNormalization 'bn': it reads an input of the graph")


def test_page_and_table_have_the_reason_code() -> None:
    entry = BatchNormOutcome("bn", Outcome.KEPT, reason_codes=(ReasonCode.COST,), reason="It costs more.")

    page = str(batchnorm_table([entry]))

    assert '<code title="The readers could absorb the affine' in page
    assert ">cost</code>" in page
    assert "`" not in descriptions(entry)


def test_kept_entries_are_counted_by_their_reason_code() -> None:
    source = model([batchnorm("x", "y")], {"x": ["n", 2, 4, 4]}, ["y"], statistics(np.random.default_rng(0), 2))

    report = folded(source)[1]

    assert list(kept_by_reason(report)) == ["graph-input/graph-output"]
    assert report.kept == {"graph-input/graph-output": 1}
