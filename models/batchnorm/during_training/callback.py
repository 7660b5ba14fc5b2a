"""Measures the statistics of every BatchNorm at the end of each epoch, as a callback of training."""

from __future__ import annotations

import os
import warnings
from collections import deque
from contextlib import ExitStack
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from normfold.models.batchnorm.dropout_order import dropout_before_batchnorms
from normfold.models.batchnorm.during_training.causes import TrainingFacts, find_causes
from normfold.models.batchnorm.during_training.measure import LAST_STEPS, InferenceSums, measure
from normfold.models.batchnorm.during_training.plot import draw_statistics
from normfold.models.batchnorm.during_training.running_values import Layers, Snapshot, find_layers
from normfold.models.errors import TrainingWarning
from normfold.models.statistics.epochs import (
    PLOT_NAME,
    EpochStatistics,
    append_statistics,
    read_statistics,
    rewrite_statistics,
)
from normfold.models.statistics.hooks import input_hooks
from normfold.models.training.callback import TrainingCallback
from normfold.models.training.checkpoint import RunConfig
from normfold.models.training.metrics import EpochMetrics

EXAMPLE_ROWS = 2


class StatisticsCallback(TrainingCallback):
    """Copies the running statistics around the last steps of each epoch, and measures inputs during its validation.

    It runs nothing through the network and changes nothing, so that the weights are those without it.

    Args:
        folder: run folder, to which batchnorm.jsonl is written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._network: nn.Module | None = None
        self._layers = Layers((), ())
        self._records: list[EpochStatistics] = []
        self._snapshots: deque[Snapshot] = deque(maxlen=LAST_STEPS + 1)
        self._hooks = ExitStack()
        self._sums: dict[str, InferenceSums] = {}
        self._steps = self._steps_done = 0

    def on_network(self, network: nn.Module) -> None:
        """Find the layers."""
        self._network, self._layers = network, find_layers(network)

    def on_start(self, epochs_done: int, epochs: int, steps: int) -> None:  # noqa: ARG002 -- the base's
        """Read the figures of the epochs before a resume."""
        self._steps = steps
        self._records = read_statistics(self._folder, epochs_done)
        rewrite_statistics(self._folder, self._records)
        self._take_snapshot()

    def on_step(self) -> None:
        """Copy the running statistics after each of the last steps."""
        self._steps_done += 1
        if self._steps_done >= self._steps - LAST_STEPS:
            self._take_snapshot()
        if self._steps_done == self._steps:
            self._begin_validation()

    def on_epoch(self, metrics: EpochMetrics) -> None:
        """Measure, and write the line of the epoch."""
        self._hooks.close()
        self._steps_done = 0
        if len(self._snapshots) > 1:
            sums = [self._sums[name] for name in self._layers.names]
            record = EpochStatistics(epoch=metrics.epoch, layers=measure(self._layers, self._snapshots, sums))
            self._records.append(record)
            append_statistics(self._folder, record)
            for _ in range(len(self._snapshots) - 1):
                self._snapshots.popleft()

    def finish(self, config: RunConfig) -> None:
        """Draw the picture of all epochs, and warn if batch and running statistics differ.

        Args:
            config: of the finished run.

        Raises:
            OSError: the picture cannot be written.

        Warns:
            TrainingWarning: batch and running statistics differ in the epoch of the checkpoint.
        """
        if not self._records or config.train is None:
            return
        draw_statistics(self._records, config.epoch, self._folder / PLOT_NAME, config.card.origin)
        statistics = next((record for record in self._records if record.epoch == config.epoch), None)
        if statistics is None or config.averaged:  # the figures are of the weights that were not averaged
            return
        modules = dict(zip(self._layers.names, self._layers.modules, strict=True))
        facts = TrainingFacts(
            batch_rows=self._batch_rows(config.train.batch_size),
            steps=config.epoch * self._steps,
            momentum={name: modules[name].momentum for name in statistics.layers},
            dropout=self._dropout(config.architecture.input_shape),
        )
        causes = find_causes(statistics, facts)
        if causes:
            text = " ".join(cause.sentences for cause in causes)
            warnings.warn(f"{text} {PLOT_NAME} in the run folder shows all layers.", TrainingWarning, stacklevel=2)

    def _batch_rows(self, batch_size: int) -> int:
        """Return over how many rows a layer computes its statistics: only synchronised ones see other processes'."""
        synchronised = any(isinstance(layer, nn.SyncBatchNorm) for layer in self._layers.modules)
        return batch_size if synchronised else batch_size // int(os.environ.get("WORLD_SIZE", "1"))

    def _take_snapshot(self) -> None:
        if self._layers.names:
            self._snapshots.append(self._layers.take_snapshot())

    def _begin_validation(self) -> None:
        """Measure the inputs of all layers in eval mode from now on, until the epoch ends."""
        self._sums = {name: InferenceSums() for name in self._layers.names}

        def add(name: str, layer: _BatchNorm, x: Tensor) -> None:
            if not layer.training:
                self._sums[name].add(layer, x.detach())

        self._hooks.enter_context(input_hooks(zip(self._layers.names, self._layers.modules, strict=True), add))

    def _dropout(self, input_shape: tuple[int, ...]) -> dict[str, float]:
        """Return the dropout before each layer; none where the network does not run on zeros of one input."""
        assert self._network is not None
        device = next((value.device for value in self._network.parameters()), None)
        try:
            example = torch.zeros(EXAMPLE_ROWS, *input_shape, device=device)
            return dropout_before_batchnorms(self._network.eval(), example)
        except Exception:  # noqa: BLE001 -- a user's own network may raise anything where gradients are kept
            return {}
