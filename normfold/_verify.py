"""`normfold.verify`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from normfold._shared.argument_checks import PATH, check, check_optional, whole_number
from normfold._shared.packages import require_export
from normfold._shared.paths import AnyPath, optional_path
from normfold._shared.progress import Progress, progress_callback
from normfold._shared.results import verification_sentence

if TYPE_CHECKING:
    from normfold.export.verify.verify import Verification


@dataclass(frozen=True, repr=False)
class VerifyResult:
    """The difference between the outputs of two models.

    Attributes:
        original: the reference model.
        folded: the model that was compared with it.
        verification: the error, noise, allowed error and floor of each output, and of its worst channel.
    """

    original: Path
    folded: Path
    verification: Verification

    @property
    def passes(self) -> bool:
        """Whether every output's error is allowed."""
        return self.verification.passes

    def require(self) -> None:
        """Raise if an output differs by more than is allowed.

        Raises:
            VerificationError: naming the output whose error exceeds the allowed error most.
        """
        self.verification.require()

    def __repr__(self) -> str:
        return f"VerifyResult({str(self.folded)!r}: {verification_sentence(self.verification)})"

    def _repr_html_(self) -> str:
        """Return a page with a row for each output, for notebooks."""
        from normfold.display.pages.fold_page import verification_page
        from normfold.display.pages.notebook import embed

        return embed(verification_page(self.folded.name, self.verification))


def verify(
    original: AnyPath,
    folded: AnyPath,
    *,
    inputs: AnyPath | None = None,
    seeds: int = 4,
    card: AnyPath | None = None,
    progress: Progress = False,
) -> VerifyResult:
    """Compare two ONNX models on the same inputs, relative to the rounding noise of the first::

        error <= 8 * noise + floor       all relative to the output's range

    Noise is the change of the original's outputs when its inputs move by one unit in the last place (or its weights, if
    the first rounding would remove that change). The floor is 1e-6 for float32, 2 epsilons for float16 and bfloat16, 64
    for float64, and at least one unit in the last place of the output's largest magnitude. The channels of an output
    are also measured relative to their own ranges.

    Example:
        >>> import normfold
        >>> normfold.verify("resnet50.onnx", "folded.onnx").passes
        True

    Args:
        original: the reference model.
        folded: the model to compare; the same inputs and outputs, by name, dtype and rank.
        inputs: an .npz with one array for each input in its dtype and shape; random inputs without it.
        seeds: number of random inputs, at least 4.
        card: source card (JSON), if `folded` takes uint8 pixels; a card of {} if `original` standardises them itself.
        progress: True shows each step on standard error; a function is called with each step, in words.

    Returns:
        The differences; use `passes` or `require` to check them.

    Raises:
        MissingPackageError, RuntimePackageError: the extra `export` or an ONNX Runtime is not installed.
        ArgumentError: an argument cannot be used.
        ModelFileError: a model cannot be read or run, or the two have other inputs or outputs.
        ModelInputError: the inputs do not fit, or none can be made.
        ManifestError, PixelError: the card cannot be used.
    """
    check(PATH, original=original, folded=folded)
    check_optional(PATH, inputs=inputs, card=card)
    check(whole_number(4), seeds=seeds)
    require_export("normfold verify")
    from normfold.contract.source_card import read_source_card
    from normfold.export.graph.pixels import from_pixels
    from normfold.export.verify.verify import verify as compare

    pixels = None if card is None else from_pixels(read_source_card(Path(card)).preprocessing)
    with progress_callback(progress) as progress:
        progress("running both models")
        found = compare(Path(original), Path(folded), optional_path(inputs), seeds, pixels=pixels)
    return VerifyResult(Path(original), Path(folded), found)
