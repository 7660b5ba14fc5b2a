"""The interface through which training reports its progress."""

from __future__ import annotations

from torch import nn

from normfold.models.training.metrics import EpochMetrics


class TrainingCallback:
    """Methods that `fit` calls in the main process; these do nothing."""

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
