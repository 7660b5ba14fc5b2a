"""Two models run on the same inputs, the first also perturbed: more often where an error exceeds what is allowed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from normfold.contract.progress import ProgressCallback
from normfold.export.verify.measure import measure
from normfold.export.verify.perturbed_runs import MAX_PERTURBATIONS, PERTURBATIONS, Perturbation
from normfold.export.verify.runner import Inputs, Outputs, Runner
from normfold.export.verify.tolerance import OutputDifference


@dataclass(frozen=True)
class Run:
    """What both models gave for one input, and what the original gave for it perturbed, in groups of perturbations."""

    given: Inputs
    wanted: Outputs
    got: Outputs
    perturbed: list[list[Outputs]]


@dataclass(frozen=True)
class Pair:
    """Both models, and the ways in which the original is perturbed.

    Args:
        first: the original.
        second: the folded model.
        standardise: makes what the original takes of what the folded model takes.
        perturbations: of the original.
        progress: called with each input as its runs begin.
    """

    first: Runner
    second: Runner
    standardise: Callable[[Inputs], Inputs]
    perturbations: Sequence[Perturbation]
    progress: ProgressCallback

    def run_original(self, given: Inputs) -> Outputs:
        """Run the original on what the folded model takes."""
        return self.first.run(self.standardise(given))

    def run(self, given: Sequence[Inputs]) -> list[Run]:
        """Run both models on a set of inputs, and the original perturbed."""
        runs = []
        for number, one in enumerate(given, start=1):
            self.progress(f"verifying: input {number} of {len(given)}")
            original = self.standardise(one)
            seeds = [range(PERTURBATIONS if each.is_needed else 0) for each in self.perturbations]
            groups = zip(self.perturbations, seeds, strict=True)
            perturbed = [[each.run(original, seed) for seed in group] for each, group in groups]
            runs.append(Run(original, self.first.run(original), self.second.run(one), perturbed))
        return runs

    def measure(self, runs: Sequence[Run], further: Sequence[Outputs]) -> dict[str, OutputDifference]:
        """Return the difference of each output.

        A movement that few perturbations cause is seen by chance: the fold may be one of these, and four perturbations
        not. So where an error exceeds what is allowed, that input is perturbed more often, its weights too, before the
        error is called a difference.

        Args:
            runs: on a set of inputs; further perturbations are added.
            further: the original's outputs for further inputs, which count for the range of a channel.
        """
        while True:
            found = self._measure(runs, further)
            failing = [difference.worst for difference in found.values() if not difference.passes]
            worst = max(failing, key=lambda difference: difference.excess, default=None)
            if worst is None or not self._perturb_more(runs[worst.input_index]):
                return found

    def _measure(self, runs: Sequence[Run], further: Sequence[Outputs]) -> dict[str, OutputDifference]:
        return {
            info.name: measure(
                [run.wanted[info.name] for run in runs],
                [run.got[info.name] for run in runs],
                [[[one[info.name] for one in group] for group in run.perturbed] for run in runs],
                [each.share for each in self.perturbations],
                [outputs[info.name] for outputs in further],
                has_steps=self.first.has_steps,
            )
            for info in self.first.outputs
        }

    def _perturb_more(self, run: Run) -> bool:
        """Perturb an input twice as often as before; return False where it was perturbed most often already."""
        if all(len(group) >= MAX_PERTURBATIONS for group in run.perturbed):
            return False
        self.progress("verifying: an input perturbed more often")
        for each, group in zip(self.perturbations, run.perturbed, strict=True):
            count = min(max(PERTURBATIONS, 2 * len(group)), MAX_PERTURBATIONS)
            group += [each.run(run.given, seed) for seed in range(len(group), count)]
        return True
