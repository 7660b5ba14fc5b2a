"""Metrics of a run in TensorBoard or MLflow, through the trackers of accelerate."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from normfold.models.training.callback import TrainingCallback
from normfold.models.training.checkpoint import RunConfig
from normfold.models.training.metrics import EpochMetrics

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker
    from torch import nn

EXPERIMENT = "normfold"
"""Name of MLflow's experiment, unless MLFLOW_EXPERIMENT_NAME names another."""


@contextmanager
def tracked(
    callback: TrainingCallback | None, name: str, config: RunConfig, folder: Path
) -> Iterator[TrainingCallback]:
    """Return a callback that also logs the metrics of every epoch, until the block is left.

    TensorBoard's files are in the run folder, in `tensorboard`. MLflow logs to the server, database or folder of
    MLFLOW_TRACKING_URI, otherwise to its own default in the current folder; the run has the name of the run folder.

    Args:
        callback: gets every call too, if there is one.
        name: tensorboard or mlflow.
        config: of the run, for the parameters that are logged.
        folder: run folder.
    """
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    place: dict[str, object] = {"run_name": name, "logging_dir": folder}
    if name == "mlflow":
        place = {"experiment_name": EXPERIMENT, "run_name": folder.resolve().name}
    tracker: GeneralTracker = LOGGER_TYPE_TO_CLASS[name](**place)
    found = TrackingCallback(callback or TrainingCallback(), tracker, parameters(config))
    try:
        yield found
    finally:
        found.finish()


def parameters(config: RunConfig) -> dict[str, str]:
    """Return the settings of a run as a tracker shows them: names with a point before the last, values as texts."""
    parts = {"architecture": config.architecture, "data": config.data, "train": config.train}
    return {
        f"{part}.{name}": str(value)
        for part, record in parts.items()
        if record is not None
        for name, value in record.model_dump().items()
        if value is not None
    }


class TrackingCallback(TrainingCallback):
    """Logs the metrics of each epoch; another callback gets all calls too."""

    def __init__(self, callback: TrainingCallback, tracker: GeneralTracker, settings: dict[str, str]) -> None:
        self._callback, self._tracker, self._settings = callback, tracker, settings
        self._started = False

    def on_note(self, sentence: str) -> None:
        self._callback.on_note(sentence)

    def on_network(self, network: nn.Module) -> None:
        self._callback.on_network(network)

    def on_start(self, epochs_done: int, epochs: int, steps: int) -> None:
        # Not earlier: a run that cannot begin leaves no log.
        self._tracker.start()
        self._started = True
        self._tracker.store_init_configuration(self._settings)
        self._callback.on_start(epochs_done, epochs, steps)

    def on_step(self) -> None:
        self._callback.on_step()

    def on_epoch(self, metrics: EpochMetrics) -> None:
        values = {name: value for name, value in metrics.model_dump().items() if name != "epoch"}
        self._tracker.log(values, step=metrics.epoch)
        self._callback.on_epoch(metrics)

    def finish(self) -> None:
        """Write what is not written yet."""
        if self._started:
            self._tracker.finish()
