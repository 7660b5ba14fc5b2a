"""Who hears of a run's progress."""

from __future__ import annotations

from normfold.models.training.metrics import EpochMetrics


class Reporter:
    """Hears of progress; this one says nothing. Called in the main process alone."""

    def start(self, epochs_done: int, epochs: int, steps: int) -> None:
        """Training begins: epochs in all, and steps in each."""

    def step(self) -> None:
        """One step is done."""

    def epoch(self, metrics: EpochMetrics) -> None:
        """One epoch is done, and its checkpoint written."""
