"""The report of a fold: the outcome for every BatchNormalization, and why one was kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from normfold.export.fold.batchnorm_parameters import BatchNorm
from normfold.export.fold.reason_codes import ReasonCode
from normfold.export.fold.rejection import Rejection
from normfold.export.graph.pixels import PixelInput
from normfold.export.graph.size import GraphSize


class Outcome(StrEnum):
    """The outcome of a fold for one BatchNormalization.

    FOLDED_BACK: layers before it absorbed it, or it was the identity. FOLDED_FORWARD: layers after it absorbed it.
    COMPOSED: combined with another affine, a BatchNormalization or a Mul, Add, Sub or Div by a constant, which stays.
    MERGED: it became part of one layer, merged of parallel branches. KEPT: it is still in the graph. REMOVED: its
    output was not read. COMPUTED: its input is a constant, and so is what it gave.
    """

    FOLDED_BACK = "folded back"
    FOLDED_FORWARD = "folded forward"
    COMPOSED = "composed"
    MERGED = "merged"
    KEPT = "kept"
    REMOVED = "removed"
    COMPUTED = "computed"

    @property
    def description(self) -> str:
        """One phrase for legends."""
        return _DESCRIPTIONS[self]


_DESCRIPTIONS = {
    Outcome.FOLDED_BACK: "absorbed by layers before it",
    Outcome.FOLDED_FORWARD: "absorbed by layers after it",
    Outcome.COMPOSED: "combined with another affine",
    Outcome.MERGED: "merged into one layer with parallel branches",
    Outcome.KEPT: "still in the graph",
    Outcome.REMOVED: "its output was not read",
    Outcome.COMPUTED: "computed, as its input is a constant",
}


@dataclass(frozen=True)
class BatchNormOutcome:
    """The outcome for one BatchNormalization of the source, and how it came about.

    `node` names it as the source does. `into` lists the nodes that absorbed it, `path` all nodes on the way; both are
    empty where it was kept, and `reason_codes` (backwards and forwards, or one where neither was tried) and `reason`
    say why. `output_value` is the value of the folded graph that holds what the BatchNormalization gave out. `module`
    and `into_modules` name the torch modules that `node` and the nodes of `into` come from, where the file says so.
    """

    node: str
    outcome: Outcome
    into: tuple[str, ...] = ()
    path: tuple[str, ...] = ()
    reason_codes: tuple[ReasonCode, ...] = ()
    reason: str | None = None
    output_value: str | None = None
    module: str | None = None
    into_modules: tuple[str | None, ...] = ()

    @staticmethod
    def kept(node: str, rejections: Sequence[Rejection], output_value: str | None) -> BatchNormOutcome:
        """Return the entry of a BatchNormalization that was rejected, in one direction or in both."""
        sentences = [rejection.sentence for rejection in rejections]
        if len(rejections) == 2:
            sentences = [f"{way}: {reason}" for way, reason in zip(("Backwards", "Forwards"), sentences, strict=True)]
        codes = tuple(rejection.code for rejection in rejections)
        return BatchNormOutcome(
            node, Outcome.KEPT, reason_codes=codes, reason=" ".join(sentences), output_value=output_value
        )

    @staticmethod
    def removed(node: str) -> BatchNormOutcome:
        """Return the entry of a BatchNormalization whose output is read nowhere."""
        return BatchNormOutcome(
            node, Outcome.REMOVED, reason_codes=(ReasonCode.UNREAD,), reason="Its output is not read."
        )

    @property
    def reason_code(self) -> str | None:
        """The reason codes as text, `backwards/forwards` or a single one; None where it was folded."""
        return "/".join(self.reason_codes) or None

    def to_dict(self) -> dict[str, Any]:
        """Return plain types for JSON."""
        return {
            "node": self.node,
            "module": self.module,
            "outcome": self.outcome.value,
            "into": ", ".join(self.into) or None,
            "into_modules": list(self.into_modules),
            "path": list(self.path),
            "reason_code": self.reason_code,
            "reason": self.reason,
            "output_value": self.output_value,
        }


@dataclass
class FoldReport:
    """One entry for every BatchNormalization of the source, in graph order, and what else is worth saying.

    `affines` counts the Mul, Add, Sub and Div by a constant that were folded too, `batchnorm_made` the
    BatchNormalization nodes that stand for a Mul and an Add now. `parameters` holds, by the entry's `node`, what each
    BatchNormalization held before the fold, but for those that an earlier fold made. `input` is set where the model
    takes pixels now. `size_before` and `size_after` are the size of the graph with functions inlined, and of the
    folded one.
    """

    entries: list[BatchNormOutcome] = field(default_factory=list)
    affines: int = 0
    batchnorm_made: int = 0
    parameters: dict[str, BatchNorm] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    input: PixelInput | None = None
    size_before: GraphSize | None = None
    size_after: GraphSize | None = None

    @property
    def batchnorm_before(self) -> int:
        """Number of BatchNormalization nodes in the source."""
        return len(self.entries)

    @property
    def batchnorm_after(self) -> int:
        """Number of them that were kept."""
        return sum(entry.outcome is Outcome.KEPT for entry in self.entries)

    @property
    def kept(self) -> dict[str, int]:
        """Reason code to the number of BatchNormalization nodes kept for it."""
        return dict(Counter(entry.reason_code for entry in self.entries if entry.reason_code is not None))

    def to_dict(self) -> dict[str, Any]:
        """Return what `normfold fold --report` writes."""
        return {
            "batchnorm_before": self.batchnorm_before,
            "batchnorm_after": self.batchnorm_after,
            "batchnorm_made": self.batchnorm_made,
            "affines_folded": self.affines,
            "entries": [entry.to_dict() for entry in self.entries],
            "warnings": self.warnings,
            "input": None if self.input is None else self.input.to_dict(),
        }
