"""Options of the command line for the arguments of the Python API, which sentences name in back quotes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from normfold.contract.errors import with_options

if TYPE_CHECKING:
    from normfold.export.fold.report import FoldReport

OPTIONS = {
    "input_shape": "--input",
    "takes_pixels": "--input uint8",
    "arguments": "--arg",
    "keep_reference": "--no-reference",
    "as_tensors": "--tensors or --raw",
    "keep_source": "--no-source",
    "calibration_data": "--calibration",
    "source": "SOURCE",
    "url": "URL",
    "rates": "--rate",
    "duration_s": "--duration",
    "warm_up_s": "--warm-up",
}
"""Argument of the Python API to its option, where that is not named like it."""


def in_options(sentence: str) -> str:
    """Return a sentence with options for the arguments that it names: --samples for `samples`."""
    return with_options(sentence, OPTIONS)


def report_in_options(report: FoldReport) -> FoldReport:
    """Return the report of a fold whose reasons name the option that the user can give.

    Other words in back quotes are names of the file.
    """
    entries = [
        entry
        if entry.reason is None
        else replace(entry, reason=entry.reason.replace("`freeze_inputs`", "--freeze-inputs"))
        for entry in report.entries
    ]
    return replace(report, entries=entries)
