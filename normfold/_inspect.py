"""`normfold.inspect`."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from normfold._shared.argument_checks import FLAG, PATH, check, check_optional
from normfold._shared.overwrite import is_same_file
from normfold._shared.packages import require_export, require_packages
from normfold._shared.paths import AnyPath, optional_path
from normfold._shared.progress import Progress, progress_callback
from normfold._shared.results import bundle_precision, verification_sentence
from normfold.errors import ArgumentError

if TYPE_CHECKING:
    from normfold.display.pages.facts import Facts
    from normfold.export.fold.report import FoldReport
    from normfold.export.verify.timing import Timing
    from normfold.export.verify.verify import Verification


@dataclass(frozen=True, repr=False)
class InspectResult:
    """The result of `inspect`: the outcome of a fold that is not written.

    Attributes:
        model: its path.
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
    model: AnyPath,
    *,
    verify: bool = True,
    html: AnyPath | None = None,
    time: bool = False,
    progress: Progress = False,
) -> InspectResult:
    """Show every BatchNormalization of an ONNX model: where a fold would put it, or why it would stay.

    For a model in the folder of a bundle in int8 or float16, the page shows the proof of that precision too. The model
    is not changed. In a notebook the result is a page with a drawing of the graph.

    Example:
        >>> import normfold
        >>> result = normfold.inspect("resnet50.onnx", html="resnet50.html")
        >>> [entry.node for entry in result.report.entries if entry.reason]
        []

    Args:
        model: the model.
        verify: fold into a temporary file and verify the fold; needs an ONNX Runtime.
        html: path of the page; written atomically.
        time: fold into a temporary file, and time a run before and after, on one thread; needs an ONNX Runtime.
        progress: True shows each step on standard error; a function is called with each step, in words.

    Raises:
        MissingPackageError, RuntimePackageError: the extra `export` is not installed, or to verify an ONNX Runtime.
        ArgumentError: an argument cannot be used, or `html` is the model itself.
        ModelFileError, TrainingModeError: the model cannot be used, or cannot be run to verify.
        WriteError: the page, or the temporary file, cannot be written.
    """
    check(PATH, model=model)
    check_optional(PATH, html=html)
    check(FLAG, verify=verify, time=time)
    if verify or time:
        require_export(f"normfold inspect {'--html' if verify else '--time'}")
    else:
        require_packages("onnx", "onnx_ir", extra="export", needed_for="normfold inspect")
    from normfold.contract.atomic_write import atomic_path
    from normfold.display.pages.facts import gather_facts

    source, page = Path(model), optional_path(html)
    if page is not None and is_same_file(page, source):
        raise ArgumentError(f"`html` {str(html)!r} is the model itself; give the page another name.")
    with ExitStack() as stack:
        path = None if page is None else stack.enter_context(atomic_path(page))
        facts = gather_facts(source, verify, stack.enter_context(progress_callback(progress)), timed=time)
        found = InspectResult(source, replace(facts, precision=bundle_precision(source.parent)))
        if path is not None:
            path.write_text(found.to_html(), encoding="utf-8")
    return found
