"""Training runs of tests."""

from __future__ import annotations

from collections.abc import Callable

from normfold.models.data.data import Dataset
from normfold.models.training.callback import TrainingCallback
from normfold.models.training.checkpoint import RunConfig
from normfold.models.training.metrics import EpochMetrics

MakeRun = Callable[..., tuple[RunConfig, Dataset]]
"""Type of the fixture `make_run`: a function of an architecture's name, its options, and fields of TrainConfig."""


class StopAfter(TrainingCallback):
    """Interrupts as Ctrl-C does, in the middle of an epoch."""

    def __init__(self, epoch: int) -> None:
        self.last, self.done = epoch, 0

    def on_epoch(self, metrics: EpochMetrics) -> None:
        self.done = metrics.epoch

    def on_step(self) -> None:
        if self.done == self.last:
            raise KeyboardInterrupt
