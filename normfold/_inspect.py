"""`normfold.inspect`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from normfold._shared.argument_checks import FLAG, PATH, check, check_optional
from normfold._shared.overwrite import is_same_file
from normfold._shared.packages import require_export, require_packages
from normfold._shared.paths import AnyPath, optional_path
from normfold._shared.progress import Progress, progress_callback
from normfold._shared.results import bundle_precision, verification_sentence
from normfold._shared.sources.resolve import files_of, resolved
from normfold._shared.sources.source import Source
from normfold.errors import ArgumentError

if TYPE_CHECKING:
    from torch import nn

    from normfold.display.pages.facts import Facts
    from normfold.export.fold.report import FoldReport
    from normfold.export.verify.timing import Timing
    from normfold.export.verify.verify import Verification


@dataclass(frozen=True, repr=False)
class InspectResult:
    """The result of `inspect`: the outcome of a fold that is not written.

    Attributes:
        model: as it was given.
        facts: the contents of the page: operators before and after, sizes, every node.
    """

    model: Path
    facts: Facts

    @property
    def report(self) -> FoldReport:
        """The outcome of each BatchNormalization, in graph order."""
        return self.facts.report

    @property
    def timing(self) -> Timing | None:
        """How long a run takes before and after a fold; None where that was left out, or is not possible."""
        return self.facts.timing

    @property
    def verification(self) -> Verification | None:
        """The comparison with the folded model; None if it was omitted."""
        return self.facts.verification

    def to_html(self) -> str:
        """Return the self-contained page of `normfold inspect --html`."""
        from normfold.display.pages.fold_page import fold_page

        return fold_page(self.facts)

    def __repr__(self) -> str:
        from normfold.display.terminal.fold import fold_sentence

        sentence = fold_sentence(self.report, "can be folded")
        return f"InspectResult({str(self.model)!r}: {sentence} {verification_sentence(self.verification)})"

    def _repr_html_(self) -> str:
        from normfold.display.pages.notebook import embed

        return embed(self.to_html())


def inspect(
    model: AnyPath | nn.Module,
    *,
    verify: bool = True,
    html: AnyPath | None = None,
    time: bool = False,
    weights: AnyPath | None = None,
    weights_key: str | None = None,
    strip_prefix: str | None = None,
    partial: bool = False,
    input_shape: str | Sequence[int] | None = None,
    arguments: Mapping[str, Any] | Sequence[str] = (),
    progress: Progress = False,
) -> InspectResult:
    """Show every BatchNormalization of a model: where a fold would put it, or why it would stay.

    For a bundle in int8 or float16, the page shows the proof of that precision too. The model
    is not changed. In a notebook the result is a page with a drawing of the graph.

    Example:
        >>> import normfold
        >>> result = normfold.inspect("resnet50.onnx", html="resnet50.html")
        >>> [entry.node for entry in result.report.entries if entry.reason]
        []

    Args:
        model: an ONNX file, a run folder, a bundle, a torch network in eval mode, or module:factory, a function that
            returns one. Of a bundle it is the unfolded model, of a run folder the network with the running statistics
            of its training.
        verify: fold into a temporary file and verify the fold; needs an ONNX Runtime.
        html: path of the page; written atomically.
        time: fold into a temporary file, and time a run before and after, on one thread; needs an ONNX Runtime.
        weights: of a factory's network: .safetensors, or a state dict or checkpoint of torch.save. No code in it runs.
        weights_key: of the state dict in that file, such as "state_dict_ema", if it holds several.
        strip_prefix: before the network's names in that file; found by itself if all names have it.
        partial: load of that file what fits; warns of the rest.
        input_shape: of one sample of your own network, without the axis of rows: (3, 224, 224).
        arguments: of the factory, by name; or as texts NAME=VALUE.
        progress: True shows each step on standard error; a function is called with each step, in words.

    Raises:
        MissingPackageError, RuntimePackageError: the extra `export` is not installed, or to verify an ONNX Runtime.
        ArgumentError: there is no such model, an argument does not go with it, or `html` is a file of the model.
        ModelFileError, TrainingModeError: the model cannot be used, or cannot be run to verify.
        WeightsError, ArchitectureError, OnnxExportError: a torch network cannot be loaded or exported.
        RepositoryError, DamagedVersionError: the bundle is not there, or not what was exported.
        WriteError: the page, or the temporary file, cannot be written.
    """
    check_optional(PATH, html=html)
    check(FLAG, verify=verify, time=time)
    given = Source.of(
        model,
        argument="model",
        weights=weights,
        weights_key=weights_key,
        strip_prefix=strip_prefix,
        partial=partial,
        input_shape=input_shape,
        arguments=arguments,
    )
    if verify or time:
        require_export(f"normfold inspect {'--html' if verify else '--time'}")
    else:
        require_packages("onnx", "onnx_ir", extra="export", needed_for="normfold inspect")
    from normfold.contract.atomic_write import atomic_path
    from normfold.display.pages.facts import gather_facts

    page = optional_path(html)
    if page is not None and any(is_same_file(page, file) for file in files_of(given)):
        raise ArgumentError(f"`html` {str(html)!r} is the model itself; give the page another name.")
    with ExitStack() as stack:
        path = None if page is None else stack.enter_context(atomic_path(page))
        progress = stack.enter_context(progress_callback(progress))
        source = stack.enter_context(resolved(replace(given, keep_statistics=given.is_run), progress)).path
        facts = gather_facts(source, verify, progress, timed=time)
        precision = bundle_precision(source.parent)
        name = facts.name if given.is_onnx else given.text
        found = InspectResult(Path(given.text), replace(facts, name=name, precision=precision))
        if path is not None:
            path.write_text(found.to_html(), encoding="utf-8")
    return found
