"""`normfold.unfold`: a BatchNormalization behind each folded layer again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from normfold._shared.argument_checks import FLAG, PATH, VERSION, check, check_as_tensors, check_optional
from normfold._shared.overwrite import require_other_file
from normfold._shared.packages import require_export
from normfold._shared.paths import AnyPath, optional_path
from normfold._shared.progress import Progress, progress_callback
from normfold._shared.results import verification_sentence
from normfold._shared.sources.bundle import is_model, is_run_folder, place_of, usual_repository
from normfold._shared.sources.source import Source
from normfold.errors import ArgumentError

if TYPE_CHECKING:
    from normfold.export.unfold.report import UnfoldReport
    from normfold.export.verify.verify import Verification


@dataclass(frozen=True, repr=False)
class UnfoldResult:
    """The result of `unfold`.

    Attributes:
        target: the unfolded model.
        report: each BatchNormalization that it has again, and one sentence for each layer that has none.
        verification: the comparison of both models.
        warnings: about the samples, one sentence each.
    """

    target: Path
    report: UnfoldReport
    verification: Verification
    warnings: tuple[str, ...] = ()

    def __repr__(self) -> str:
        count = len(self.report.layers)
        return (
            f"UnfoldResult({str(self.target)!r}: {count} BatchNormalization node{'s' * (count != 1)}. "
            f"{verification_sentence(self.verification)})"
        )


def unfold(
    source: AnyPath,
    target: AnyPath | None = None,
    *,
    samples: AnyPath | None = None,
    repository: AnyPath | None = None,
    version: int | None = None,
    card: AnyPath | None = None,
    as_tensors: bool | None = None,
    inputs: AnyPath | None = None,
    force: bool = False,
    progress: Progress = False,
) -> UnfoldResult:
    """Give a folded network a BatchNormalization behind each layer again, for further training elsewhere.

    For fine-tuning and quantisation-aware training. A bundle of a repository gives its own BatchNormalization nodes. In
    any other file one is put behind each Conv, ConvTranspose, Gemm and MatMul whose output is a matrix; it takes over
    the layer's bias, has the statistics of `samples`, and leaves the function as it was::

        scale = sqrt(var + epsilon)        shift = mean + bias

    The unfolded model is compared with the folded one before it is written: 8 times the network's own rounding noise,
    plus 1e-6 of an output's range, is allowed.

    Example:
        >>> import normfold
        >>> normfold.unfold("digits", "unfolded.onnx").report.layers[0].behind
        'node_conv2d'
        >>> normfold.unfold("folded.onnx", "unfolded.onnx", samples="images.npz")
        UnfoldResult('unfolded.onnx': 53 BatchNormalization nodes. Verified: error at most 1.2 × noise.)

    Args:
        source: name of a model in a repository, REPOSITORY/NAME or REPOSITORY/NAME/VERSION, or path of a folded ONNX
            file, which ends in .onnx.
        target: path of the unfolded model to write; an existing file is replaced as a whole, a file that is read only
            with `force`. Without it, NAME.unfolded.onnx in the current folder, or beside the file.
        samples: for a file: inputs without labels to take statistics from, as `adapt` reads them: an .npz (raw inputs
            "x", or tensors by the names of the network's inputs); a folder of images or a .csv with a card.
        repository: folder of models; NORMFOLD_REPOSITORY or "model_repository" without it.
        version: of the model; the newest without it.
        card: for a file: the source card, a JSON file that says how raw inputs are standardised; the one beside the
            model without it.
        as_tensors: whether an .npz holds tensors; derived from the names of its arrays without it.
        inputs: an .npz to verify with, one array for each input; random inputs without it.
        force: write over `source` if `target` is the same file.
        progress: True shows each step on standard error; a function is called with each step, in words.

    Raises:
        MissingPackageError, RuntimePackageError: the extra `export` or an ONNX Runtime is not installed.
        ArgumentError: an argument cannot be used, is for the other kind of source, or `target` is `source`.
        UnfoldError: a file comes without samples, or no BatchNormalization can be put anywhere.
        ModelFileError, ManifestError: the model or its card cannot be used.
        RepositoryError: there is no such model or version.
        DamagedVersionError: the version is not what was exported.
        SampleError, PixelError, ModelInputError: the samples, or the inputs to verify with, cannot be used.
        NotAdaptableError: the model cannot be run on the samples.
        AdaptationError: the samples are too few, too many, all alike, or beyond what the model's numbers hold.
        VerificationError: the unfolded model differs; `target` is as it was.
        WriteError: `target` cannot be written.
    """
    check(PATH, source=source)
    check_optional(PATH, target=target, samples=samples, repository=repository, card=card, inputs=inputs)
    check_optional(VERSION, version=version)
    check_optional(FLAG, as_tensors=as_tensors)
    check(FLAG, force=force)
    require_export("normfold unfold")
    from normfold._shared.sources.resolve import read_card
    from normfold.export.unfold.unfold import unfold_bundle, unfold_file

    given, named = Path(source), Source.of(source)
    is_file = given.suffix == ".onnx"
    if named.is_factory or (
        named.is_run and is_run_folder(given) and not is_model(usual_repository(repository) / given)
    ):
        raise ArgumentError(
            f"{str(source)!r} is {'a module:factory' if named.is_factory else 'a run folder'}, whose network is not "
            "folded; normfold unfold takes a bundle or a folded ONNX file."
        )
    others = {"repository": repository, "version": version} if is_file else {"samples": samples, "card": card}
    wrong = next((name for name, value in others.items() if value is not None), None)
    if wrong is not None:
        kind = "a model in a repository" if is_file else "an ONNX file; a bundle has statistics of its own"
        raise ArgumentError(f"`{wrong}` is for {kind}.")
    if not is_file and given.is_file():
        raise ArgumentError(f"{str(source)!r} is not an ONNX file: the name of one ends in .onnx.")
    place = place_of(str(source), optional_path(repository), version)
    check_as_tensors(as_tensors, samples)
    written = optional_path(target) or default_target(source)
    read = [given] if is_file else (place.repository / place.name).glob("*/*")
    require_other_file(written, *read, samples, card, inputs, force=force)
    with progress_callback(progress) as progress:
        if is_file:
            preprocessing = read_card(given, optional_path(card)).preprocessing
            found = unfold_file(
                given, written, optional_path(samples), preprocessing, as_tensors, optional_path(inputs), progress
            )
        else:
            found = unfold_bundle(place.repository, place.name, written, place.version, optional_path(inputs), progress)
    return UnfoldResult(written, found.report, found.verification, found.warnings)


def default_target(source: AnyPath) -> Path:
    """Return the file that `unfold` writes where none is named: beside a file, or in the current folder."""
    path = Path(source)
    if path.suffix == ".onnx":
        return path.with_name(f"{path.name.removesuffix('.onnx')}.unfolded.onnx")
    return Path(f"{place_of(str(source), None, None).name}.unfolded.onnx")
