"""Sections of a page on comparisons: of a fold with its source, and of a lower precision with float32."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from normfold.display.pages.markup import Html, bar, element, name, row, table

if TYPE_CHECKING:
    from normfold.contract.precision.record import Precision
    from normfold.export.verify.tolerance import Difference
    from normfold.export.verify.verify import Verification

_HEADS = [
    *("output", "verdict", "error#", "noise#", "error / noise#", "allowed#", "floor#"),
    "error / allowed",
]


def verification_section(verification: Verification | None) -> Html:
    """Return the section; without a verification it says that there was none."""
    from normfold.export.verify.tolerance import NOISE_FACTOR

    title = element("h2", "Error against noise", id="verification")
    if verification is None:
        return element("section", title, element("p", "The fold was not verified: the page was made with --no-verify."))
    return element(
        "section",
        title,
        element(
            "p",
            "Noise is the change of the model’s own outputs when each input changes by one unit in the last place. "
            "Error is the difference between the folded model and the model. Both are relative to the output’s range, "
            "or to the channel’s where a row names a channel. The allowed error is "
            f"{NOISE_FACTOR:g} times the noise, plus the floor, which follows the output’s dtype.",
        ),
        *(element("p", sentence, class_="warning") for sentence in verification.notes),
        element(
            "div",
            table(f"By {verification.engine.value}", _HEADS, _rows(verification)),
            class_="scroll",
            role="region",
            aria_labelledby="verification",
            tabindex=0,
        ),
    )


def _rows(verification: Verification) -> Iterator[Html]:
    for output, found in verification.outputs.items():
        yield _row(name(output), found)
        channel = found.channel
        if channel is not None and not channel.is_allowed:
            mean = ", mean of the values" if channel.is_mean else ""
            yield _row(f"index {channel.index} of axis {channel.axis}{mean}", channel)


def _row(label: Html | str, found: Difference) -> Html:
    verdict = "equal" if found.is_allowed else "different"
    class_ = "pass" if found.is_allowed else "fail"
    numbers = f"{found.error:.2g}", f"{found.noise:.2g}", ratio(found), f"{found.allowed:.2g}", f"{found.floor:.2g}"
    share = bar(min(found.excess, 1.0), f"{class_}-bar")
    return row(label, element("span", verdict, class_=class_), *numbers, share, numbers=range(2, 7))


def ratio(found: Difference) -> str:
    """Return error over noise, for a cell of a table."""
    return f"{found.ratio:.1f}" if found.noise else "–"


def precision_section(precision: Precision) -> Html:
    """Return the section of a network in a lower precision: each finding, and what was required."""
    from normfold.display.terminal.precision import basis_sentence, proof_rows, ranges_sentence, unchecked_sentence

    proof, unchecked = precision.proof, unchecked_sentence(precision.proof)
    rows = [row(label, found, required or "–", numbers=[1]) for label, found, required in proof_rows(precision)]
    return element(
        "section",
        element("h2", f"Precision: {precision.kind}", id="precision"),
        element(
            "p",
            f"The {precision.kind} network against the folded float32 network. dB is signal to noise: 10 log10 of the "
            "sum of the squared values over the sum of the squared differences. Time and size are ratios to float32. ",
            f"{ranges_sentence(precision)} " if precision.kind.value == "int8" else "",
            basis_sentence(proof),
            "" if unchecked is None else f" {unchecked}",
        ),
        *(element("p", sentence, class_="warning") for sentence in proof.notes),
        table(f"The proof of {precision.kind}", ["against float32", "found#", "required"], rows),
    )
