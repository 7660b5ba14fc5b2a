"""`normfold.verify`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from normfold._shared.argument_checks import FLAG, PATH, check, check_optional, whole_number
from normfold._shared.packages import require_export
from normfold._shared.paths import AnyPath, optional_path
from normfold._shared.progress import Progress, progress_callback
from normfold._shared.results import verification_sentence
from normfold._shared.sources.resolve import resolve_served, resolved
from normfold._shared.sources.source import Source, check_arguments
from normfold.contract.atomic_write import temporary_folder
from normfold.errors import ArgumentError

if TYPE_CHECKING:
    from torch import nn

    from normfold.contract.precision.record import Precision
    from normfold.export.verify.verify import Verification


@dataclass(frozen=True, repr=False)
class VerifyResult:
    """The difference between the outputs of two models.

    Attributes:
        original: the reference model, as it was given.
        folded: the model that was compared with it, as it was given.
        verification: the error, noise, allowed error and floor of each output, and of its worst channel.
        precision: of `folded`, if it is a bundle in int8 or float16; otherwise None.
    """

    original: Path
    folded: Path
    verification: Verification
    precision: Precision | None = None

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
    original: AnyPath | nn.Module,
    folded: AnyPath | nn.Module | None = None,
    *,
    inputs: AnyPath | None = None,
    seeds: int = 4,
    card: AnyPath | None = None,
    weights: AnyPath | None = None,
    weights_key: str | None = None,
    strip_prefix: str | None = None,
    partial: bool = False,
    input_shape: str | Sequence[int] | None = None,
    arguments: Mapping[str, Any] | Sequence[str] = (),
    keep_statistics: bool = False,
    progress: Progress = False,
) -> VerifyResult:
    """Compare two models on the same inputs, relative to the rounding noise of the first::

        error <= 8 * noise + floor       all relative to the output's range

    Noise is the change of the original's outputs when its inputs move by one unit in the last place (or its weights, if
    the first rounding would remove that change). The floor is 1e-6 for float32, 2 epsilons for float16 and bfloat16, 64
    for float64, and at least one unit in the last place of the output's largest magnitude. The channels of an output
    are also measured relative to their own ranges.

    Example:
        >>> import normfold
        >>> normfold.verify("resnet50.onnx", "folded.onnx").passes
        True
        >>> normfold.verify("runs/digits", "model_repository/digits").passes
        True

    Args:
        original: the reference model: an ONNX file, a run folder, a bundle, a torch network in eval mode, or
            module:factory, a function that returns one. Of a bundle it is the unfolded model; the running statistics of
            a run folder are first recalibrated, as by `export`.
        folded: the model to compare; the same inputs and outputs, by name, dtype and rank. Of a bundle it is the model
            that is served. Without it, both models are those of one bundle.
        inputs: an .npz with one array for each input in its dtype and shape; random inputs without it.
        seeds: number of random inputs, at least 4.
        card: source card (JSON), if `folded` takes uint8 pixels; a card of {} if `original` standardises them itself;
            a bundle has its own.
        weights: of a factory's network: .safetensors, or a state dict or checkpoint of torch.save. No code in it runs.
        weights_key: of the state dict in that file, such as "state_dict_ema", if it holds several.
        strip_prefix: before the network's names in that file; found by itself if all names have it.
        partial: load of that file what fits; warns of the rest.
        input_shape: of one sample of your own network, without the axis of rows: (3, 224, 224).
        arguments: of the factory, by name; or as texts NAME=VALUE.
        keep_statistics: do not recalibrate the running mean and variance of a run folder.
        progress: True shows each step on standard error; a function is called with each step, in words.

    Returns:
        The differences; use `passes` or `require` to check them.

    Raises:
        MissingPackageError, RuntimePackageError: the extra `export` or an ONNX Runtime is not installed.
        ArgumentError: there is no such source, or an argument does not go with it.
        ModelFileError: a model cannot be read or run, or the two have other inputs or outputs.
        ModelInputError: the inputs do not fit, or none can be made.
        ManifestError, PixelError: the card cannot be used.
        WeightsError, ArchitectureError, OnnxExportError: a torch network cannot be loaded or exported.
        RepositoryError, DamagedVersionError: a bundle is not there, or not what was exported.
    """
    check_optional(PATH, inputs=inputs, card=card)
    check(FLAG, keep_statistics=keep_statistics)
    check(whole_number(4), seeds=seeds)
    of_factory = {
        "weights": weights,
        "weights_key": weights_key,
        "strip_prefix": strip_prefix,
        "partial": partial,
        "input_shape": input_shape,
        "arguments": arguments,
    }
    first, second = _two_sources(original, folded, of_factory, keep_statistics)
    require_export("normfold verify")
    from normfold.contract.source_card import read_source_card
    from normfold.export.graph.pixels import from_pixels
    from normfold.export.verify.verify import verify as compare

    with progress_callback(progress) as progress, resolved(first, progress) as unfolded, temporary_folder() as folder:
        path, manifest = resolve_served(second, folder, progress)
        source_card = None if card is None else read_source_card(Path(card))
        if source_card is None and manifest is not None and manifest.takes_pixels:
            source_card = manifest.card
        pixels = None if source_card is None else from_pixels(source_card.preprocessing)
        progress("running both models")
        found = compare(unfolded.path, path, optional_path(inputs), seeds, pixels=pixels)
    return VerifyResult(Path(first.text), Path(second.text), found, None if manifest is None else manifest.precision)


def _two_sources(
    original: AnyPath | nn.Module,
    folded: AnyPath | nn.Module | None,
    of_factory: dict[str, Any],
    keep_statistics: bool,
) -> tuple[Source, Source]:
    """Return both sources; options of a factory are for the one that is a factory, and likewise those of a run folder.

    Raises:
        ArgumentError: the second is missing, and the first no bundle.
    """
    given = (original, original if folded is None else folded)
    plain = [Source.of(one, name) for one, name in zip(given, ("original", "folded"), strict=True)]
    if folded is None and plain[0].bundle is None:
        raise ArgumentError(f"{plain[0].text!r} is one model; name the model to compare with it, too.")
    if not any(one.is_factory or one.network is not None for one in plain):
        check_arguments(Source.of(original, **of_factory))
    if not any(one.is_run for one in plain):
        check_arguments(Source.of(original, keep_statistics=keep_statistics))
    first, second = (
        Source.of(
            one,
            **(of_factory if source.is_factory or source.network is not None else {}),
            keep_statistics=keep_statistics and source.is_run,
        )
        for one, source in zip(given, plain, strict=True)
    )
    return first, second
