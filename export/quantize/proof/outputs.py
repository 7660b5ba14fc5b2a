"""The outputs of two networks on the same rows: signal to noise, and classes."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from normfold.contract.outputs.task import MultiLabel, OutputTask, Regression
from normfold.contract.precision.record import AccuracyChange, Agreement, ValueChange
from normfold.contract.precision.signal_to_noise import SignalToNoise
from normfold.contract.progress import ProgressCallback, ignore_progress
from normfold.export.arrays import Tensor
from normfold.export.quantize.proof.agreement import ClassCounts, ValueSums, flags, holds_probabilities
from normfold.export.quantize.proof.rows import ProofRows
from normfold.export.verify.runner import Inputs, Outputs, ValueInfo

Run = Callable[[Inputs], Outputs]

_CLIPPED = 0.005
"""By so much the highest probability is lower, over all rows; a step of 8 bits makes 0.004."""


@dataclass
class OutputComparison:
    """What was found of one output over all rows."""

    signal_to_noise: SignalToNoise = field(default_factory=SignalToNoise)
    classes: ClassCounts = field(default_factory=ClassCounts)
    holds_probabilities: bool = True
    highest_before: float = -math.inf
    highest_after: float = -math.inf
    is_float: bool = True
    values: ValueSums | None = None

    def add(
        self, before: Tensor, after: Tensor, has_classes: bool, labels: Tensor | None, task: OutputTask | None = None
    ) -> None:
        """Add what both networks give for a batch; `task` is what the output means, where it is not classes."""
        if isinstance(task, MultiLabel) and has_classes:
            self.classes.add(flags(before, task), flags(after, task), labels)
        elif isinstance(task, Regression):
            self.values = self.values or ValueSums(task)
            self.values.add(before, after, labels)
        elif has_classes:
            self.classes.add(before, after, labels)
        self.is_float = before.dtype.kind == "f"
        if not self.is_float:
            return
        self.signal_to_noise.add(before, after)
        self.holds_probabilities &= holds_probabilities(before)
        self.highest_before = max(self.highest_before, float(before.max(initial=-math.inf)))
        self.highest_after = max(self.highest_after, float(after.max(initial=-math.inf)))


def compare_outputs(
    before: Run,
    after: Run,
    rows: ProofRows,
    infos: Sequence[ValueInfo],
    classes: Collection[str],
    batchable: bool,
    progress: ProgressCallback = ignore_progress,
    task: OutputTask | None = None,
) -> dict[str, OutputComparison]:
    """Run two networks on the same rows, and compare each output.

    Args:
        before: runs the float32 network.
        after: runs the other.
        rows: as both take them.
        infos: the inputs of both.
        classes: outputs that hold logits, probabilities, or classes as integers.
        batchable: rows are independent.
        progress: called with each batch as it begins.
        task: what an output means that holds no classes.

    Raises:
        ModelFileError: a network fails.
        ModelInputError: there are fewer rows than the network takes at once.
    """
    found: dict[str, OutputComparison] = {}
    for place, inputs in rows.batches(infos, batchable):
        progress(f"comparing {place.stop} of {rows.count} rows")
        wanted, got = before(inputs), after(inputs)
        for name, array in wanted.items():
            if array.dtype.kind != "f" and name not in classes:
                continue
            labels = rows.labels[name][place] if name in rows.labels else None
            comparison = found.setdefault(name, OutputComparison())
            has_classes = name in classes and not rows.are_random
            own_task = task if task is not None and name == task.output and not rows.are_random else None
            comparison.add(array, got[name], has_classes, labels, own_task)
    return found


def clipped_probabilities(found: dict[str, OutputComparison]) -> list[str]:
    """Return a sentence for each output of probabilities: ranges from statistics clip them, or may do so.

    Nothing is said of one that reaches 1.
    """
    return [
        f"Output {name!r} holds probabilities, which {_clipping(each)}; samples give better ranges."
        for name, each in found.items()
        if each.is_float and each.holds_probabilities and each.highest_after < 1 - _CLIPPED
    ]


def _clipping(found: OutputComparison) -> str:
    if found.highest_before - found.highest_after < _CLIPPED:
        return (
            f"ranges from statistics may clip, although not on these rows (the highest is {found.highest_before:.3f})"
        )
    return (
        f"ranges from statistics clip: the highest is {found.highest_after:.3f}, in float32 {found.highest_before:.3f}"
    )


def lowest_agreement(found: dict[str, OutputComparison]) -> Agreement | None:
    """Return the agreement of the output that agrees least."""
    agreements = [each.classes.agreement for each in found.values()]
    return min((each for each in agreements if each is not None), key=lambda each: each.share, default=None)


def value_change(found: dict[str, OutputComparison]) -> ValueChange | None:
    """Return the change of predicted values, if an output holds such."""
    return next((each.values.change for each in found.values() if each.values is not None), None)


def greatest_drop(found: dict[str, OutputComparison]) -> AccuracyChange | None:
    """Return the change of accuracy of the output that loses most."""
    changes = [each.classes.accuracy for each in found.values()]
    return max((each for each in changes if each is not None), key=lambda each: each.drop, default=None)
