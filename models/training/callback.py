"""The interface through which training reports its progress."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from normfold.models.training.metrics import EpochMetrics

if TYPE_CHECKING:
    from torch import nn


class TrainingCallback:
    """Methods that `fit` calls in the main process; these do nothing."""

    def on_note(self, sentence: str) -> None:
        """What a user should know of how the run begins.

        Args:
            sentence: on the weights that it starts from, or on the schedule of a run that is resumed.
        """

    def on_network(self, network: nn.Module) -> None:
        """The network is built, or restored; called before `on_start`.

        Args:
            network: whose weights are trained, without the accelerator's wrapper.
        """

    def on_start(self, epochs_done: int, epochs: int, steps: int) -> None:
        """Training begins.

        Args:
            epochs_done: epochs of the run before it is resumed, otherwise 0.
            epochs: of the whole run.
            steps: in each epoch.
        """

    def on_step(self) -> None:
        """A step ends."""

    def on_epoch(self, metrics: EpochMetrics) -> None:
        """An epoch ends, and its state is written."""


def call_all(*callbacks: TrainingCallback) -> TrainingCallback:
    """Return a callback that calls each of these, in this order, with whatever `fit` calls it with."""
    together = TrainingCallback()
    for name in vars(TrainingCallback):
        if name.startswith("on_"):
            setattr(together, name, partial(_call_each, [getattr(callback, name) for callback in callbacks]))
    return together


def _call_each(methods: Sequence[Callable[..., None]], *args: object, **kwargs: object) -> None:
    for method in methods:
        method(*args, **kwargs)
