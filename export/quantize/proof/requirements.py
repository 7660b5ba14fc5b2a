"""What a proof must show before a network of lower precision is written."""

from __future__ import annotations

from normfold.contract.precision.record import MIN_OUTPUT_DB, Precision, PrecisionKind, PrecisionProof, Recipe
from normfold.contract.precision.signal_to_noise import MIN_FUSED_DB
from normfold.export.errors import PrecisionLossError

MAX_16_BIT_SUM = 32767


def require(precision: Precision, must_be_faster: bool = True, classes_are_known: bool = True) -> None:
    """Raise if a network may not be written.

    Args:
        precision: with the proof.
        must_be_faster: refuse an int8 network that is not, unless the recipe forces it.
        classes_are_known: the outputs whose classes were compared hold classes; otherwise they are only taken for such.

    Raises:
        PrecisionLossError: naming the first requirement that it does not meet.
    """
    kind, proof, recipe = precision.kind, precision.proof, precision.recipe
    if proof.pair_sum is not None and proof.pair_sum > MAX_16_BIT_SUM:
        raise PrecisionLossError(
            f"The {kind} network has two weights whose sum times 255 is {proof.pair_sum:.0f}: more than the "
            f"{MAX_16_BIT_SUM} that fit into 16 bits, so that processors without VNNI saturate"
        )
    if proof.fused_sqnr_db is not None and proof.fused_sqnr_db < MIN_FUSED_DB:
        raise PrecisionLossError(
            f"ONNX Runtime does not compute on this processor what the {kind} file says: its outputs with and without "
            f"optimisations are {proof.fused_sqnr_db:.1f} dB apart, and at least {MIN_FUSED_DB:g} are needed"
        )
    _require_outputs(kind, proof)
    _require_accuracy(kind, proof, recipe, classes_are_known)
    if must_be_faster and kind is PrecisionKind.INT8 and not recipe.force and not is_faster(proof):
        times = ", ".join(f"{ratio:.2f} for {_rows(rows)}" for rows, ratio in proof.time_ratio.items())
        raise PrecisionLossError(
            f"The {kind} network is not faster than float32 on this processor, whose time is 1 ({times}); "
            "`force` writes it nevertheless"
        )


def is_faster(proof: PrecisionProof) -> bool:
    """Return whether the network was faster for one of the numbers of rows that were measured."""
    return min(proof.time_ratio.values(), default=0.0) < 1.0


def _require_outputs(kind: PrecisionKind, proof: PrecisionProof) -> None:
    for name, decibels in proof.outputs.items():
        if decibels < MIN_OUTPUT_DB[kind]:
            remedy = "; give samples of its inputs with `samples`" if proof.rows_from == "random" else ""
            raise PrecisionLossError(
                f"Output {name!r} of the {kind} network has {decibels:.1f} dB of signal to noise against float32, and "
                f"at least {MIN_OUTPUT_DB[kind]:g} are needed{remedy}"
            )


def _require_accuracy(kind: PrecisionKind, proof: PrecisionProof, recipe: Recipe, classes_are_known: bool) -> None:
    """Check the accuracy where labels exist, otherwise the agreement: accuracy cannot fall by more than that.

    A few rows may differ by chance, so that it is the upper bound of the agreement that must reach what is required.
    """
    if proof.values is not None and proof.values.drop > recipe.max_drop:
        change = proof.values
        shown = (
            f"differ from float32's by {change.difference:.3g} standard deviations on {_rows(proof.rows)}, so that R² "
            "may drop by"
            if change.r2_before is None
            else f"have R² {change.r2_after:.4f} on {_rows(proof.rows)}, float32's {change.r2_before:.4f}: the drop is"
        )
        raise PrecisionLossError(f"The values of the {kind} network {shown} over {recipe.max_drop:g} (`max_drop`)")
    if proof.accuracy is not None:
        if proof.accuracy.drop > recipe.max_drop:
            raise PrecisionLossError(
                f"The {kind} network has the accuracy {proof.accuracy.after:.4f} on {_rows(proof.rows)}, float32 "
                f"{proof.accuracy.before:.4f}: the drop is over {recipe.max_drop:g} (`max_drop`)"
            )
    elif proof.agreement is not None and proof.agreement.upper_bound < 1 - recipe.max_drop:
        doubt = (
            ""
            if classes_are_known
            else "; no card says whether the network's outputs hold classes: if not, quantise with `max_drop` 1"
        )
        raise PrecisionLossError(
            f"The {kind} network gives the class of float32 for {proof.agreement.share:.4f} of {_rows(proof.rows)}, at "
            f"95 % confidence for {proof.agreement.upper_bound:.4f} at best: accuracy may drop by over "
            f"{recipe.max_drop:g} (`max_drop`){doubt}"
        )


def _rows(count: int) -> str:
    return f"{count:,} row{'s' * (count != 1)}"
