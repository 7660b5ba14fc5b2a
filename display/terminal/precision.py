"""Proofs of networks in a lower precision as tables and sentences for a terminal, and as records for JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from normfold.display.terminal.console import out
from normfold.display.terminal.width import middle_shortened

if TYPE_CHECKING:
    from normfold.contract.manifest import Manifest
    from normfold.contract.precision.record import Precision, PrecisionProof

_MAX_NAME_WIDTH = 24
_EQUAL = "equal"


def print_precision(precision: Precision, manifest: Manifest | None = None) -> None:
    """Write the proof of a precision to standard output: a table, and sentences below it.

    Args:
        precision: with the proof.
        manifest: of the version; None for a file.
    """
    out.print(precision_table(precision))
    if precision.kind.value == "int8":
        out.print(ranges_sentence(precision), markup=False)
    out.print(basis_sentence(precision.proof), markup=False)
    if (unchecked := unchecked_sentence(precision.proof)) is not None:
        out.print(unchecked, markup=False)
    if manifest is not None:
        out.print(size_sentence(manifest), markup=False)
    slower = slower_sentence(precision.proof)
    if slower is not None and precision.kind.value == "int8":
        out.print(slower, markup=False)


def precision_table(precision: Precision) -> Table:
    """Return one row for each finding, with what was required; 80 columns at most."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("against float32")
    table.add_column("found", justify="right", no_wrap=True)
    table.add_column("required")
    for name, found, required in proof_rows(precision):
        table.add_row(Text(name), found, Text(required or "–", style="bright_black"))
    return table


def proof_rows(precision: Precision) -> list[tuple[str, str, str]]:
    """Return name, value and requirement of each finding, in words."""
    from normfold.contract.precision.record import MIN_OUTPUT_DB
    from normfold.contract.precision.signal_to_noise import MIN_FUSED_DB

    proof, drop = precision.proof, precision.recipe.max_drop
    rows = []
    if proof.pair_sum is not None:
        rows.append(("sums of two products, in 16 bits", f"{proof.pair_sum:,.0f}", "at most 32,767"))
    if proof.fused_sqnr_db is not None:
        rows.append(
            ("runs with and without optimisations", decibels(proof.fused_sqnr_db), f"at least {MIN_FUSED_DB:g} dB")
        )
    rows += [
        (
            f"output {middle_shortened(name, _MAX_NAME_WIDTH)}",
            decibels(ratio),
            f"at least {MIN_OUTPUT_DB[precision.kind]:g} dB",
        )
        for name, ratio in proof.outputs.items()
    ]
    if proof.worst_layer is not None:
        name = middle_shortened(proof.worst_layer.value, _MAX_NAME_WIDTH)
        rows.append((f"worst layer, {name}", decibels(proof.worst_layer.sqnr_db), ""))
    if proof.agreement is not None:
        required = f"may be {1 - drop:g} or more" if proof.accuracy is None else ""
        found = proof.agreement
        rows.append(("same class", f"{found.share:.4f}", ""))
        rows.append(("  at 95 % confidence", f"{found.lower_bound:.4f} to {found.upper_bound:.4f}", required))
    if proof.accuracy is not None:
        change = f"{proof.accuracy.before:.4f} → {proof.accuracy.after:.4f}"
        rows.append(("accuracy", change, f"drop at most {drop:g}"))
    if proof.values is not None:
        required = f"R² may drop by at most {drop:g}" if proof.values.r2_before is None else ""
        rows.append(("difference of values", f"{proof.values.difference:.3g} std", required))
        if proof.values.r2_before is not None and proof.values.r2_after is not None:
            r2 = f"{proof.values.r2_before:.4f} → {proof.values.r2_after:.4f}"
            rows.append(("R²", r2, f"drop at most {drop:g}"))
    faster = "" if precision.kind.value != "int8" or precision.recipe.force else "one of them below 1"
    for place, (count, ratio) in enumerate(proof.time_ratio.items()):
        rows.append((f"time, {count} row{'s' * (count != 1)}", f"{ratio:.2f}", "" if place else faster))
    rows.append(("size, with weights", f"{proof.size_ratio:.2f}", ""))
    return rows


def decibels(ratio: float) -> str:
    """Return a signal to noise ratio, in words."""
    from normfold.contract.precision.signal_to_noise import MAX_DB

    return _EQUAL if ratio >= MAX_DB else f"{ratio:.1f} dB"


def ranges_sentence(precision: Precision) -> str:
    """Return what the ranges of an int8 network come from."""
    count = precision.range_rows
    rows = "rows" if count is None else f"{count:,} row{'s' * (count != 1)}"
    sentences = {
        "recorded": f"Calibrated with the data that export or adapt saw, {rows}.",
        "samples": f"Calibrated with {rows} of the samples.",
        "statistics": "Calibrated without data, by the BatchNormalization statistics.",
    }
    return sentences[precision.recipe.ranges_from]


def basis_sentence(proof: PrecisionProof) -> str:
    """Return what the networks were compared on."""
    rows = f"{proof.rows:,} row{'s' * (proof.rows != 1)}"
    if proof.rows_from == "random":
        return f"Compared on {rows} of random numbers, on {proof.processor}: accuracy was not measured."
    origin = "the validation and test data" if proof.rows_from == "held_out" else "the samples"
    return f"Compared on {rows} of {origin}, on {proof.processor}."


def unchecked_sentence(proof: PrecisionProof) -> str | None:
    """Return why the largest drop was not applied; None where it was."""
    if proof.agreement is not None or proof.accuracy is not None or proof.values is not None:
        return None
    reason = "there are no samples" if proof.rows_from == "random" else "no output is known to hold classes"
    return f"--max-drop was not applied: {reason}."


def size_sentence(manifest: Manifest) -> str:
    """Return what the size of a version's network counts, and what it does not."""
    from normfold.contract.manifest import REFERENCE_NAME

    if REFERENCE_NAME not in manifest.files:
        return "The size is that of model.onnx; the version keeps no float32 network beside it."
    return (
        "The size is that of model.onnx, which is served. The version also keeps the float32 network as "
        f"{REFERENCE_NAME}."
    )


def slower_sentence(proof: PrecisionProof) -> str | None:
    """Return for which numbers of rows the network is not faster; None if for none of them."""
    slow = [f"{count} row{'s' * (count != 1)}" for count, ratio in proof.time_ratio.items() if ratio >= 1]
    return f"It is not faster than float32 for {' and '.join(slow)} on this processor." if slow else None


def precision_sentence(precision: Precision) -> str:
    """Return the main findings in one sentence."""
    proof = precision.proof
    parts = [f"{precision.kind}, {proof.size_ratio:.2f} of float32's size"]
    if proof.time_ratio and precision.kind.value == "int8":
        parts.append(f"{min(proof.time_ratio.values()):.2f} of its time")
    if proof.outputs:
        lowest = decibels(min(proof.outputs.values()))
        parts.append("outputs equal" if lowest == _EQUAL else f"signal to noise at least {lowest}")
    if proof.agreement is not None:
        parts.append(f"same class for {proof.agreement.share:.4f} of {proof.rows:,} rows")
    if proof.values is not None:
        parts.append(f"values differ by {proof.values.difference:.3g} standard deviations on {proof.rows:,} rows")
    return f"{', '.join(parts)}."


def precision_record(precision: Precision | None) -> dict[str, Any] | None:
    """Return plain types for JSON."""
    return None if precision is None else precision.model_dump(mode="json")
