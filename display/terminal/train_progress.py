"""Progress of training: a line for each epoch, and below them a bar on a terminal."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from normfold.contract.outputs.metric_names import METRIC_NAMES
from normfold.display.terminal.console import err

if TYPE_CHECKING:
    from rich.progress import TaskID

    from normfold.contract.source_card import SourceCard
    from normfold.models.training.metrics import EpochMetrics


def epoch_line(metrics: EpochMetrics, epochs: int) -> str:
    """Return the metrics of an epoch, in words."""
    shown = "".join(
        f", {METRIC_NAMES[name]} {value:.4f}" for name, value in metrics.validation.items() if name in METRIC_NAMES
    )
    losses = f"loss {metrics.train_loss:.3f}  validation {metrics.validation_loss:.3f}"
    return f"epoch {metrics.epoch}/{epochs}  {losses}{shown}"


def metric_name(name: str) -> str:
    """Return the name of a metric in sentences; one of a label or value has its name after it: `f1_cat` is F1 cat."""
    metric, _, of = name.partition("_")
    if name in METRIC_NAMES or metric not in METRIC_NAMES:
        return METRIC_NAMES.get(name, name)
    return f"{METRIC_NAMES[metric]} {of}"


def metric_text(name: str, value: float, card: SourceCard) -> str:
    """Return the value of a metric, with its unit if it has one."""
    metric, _, of = name.partition("_")
    if metric not in ("mae", "rmse") or card.task is None or card.task.kind != "regression":
        return f"{value:.4f}"
    targets = [target for target in card.task.targets if target.name == of or not of]
    unit = targets[0].unit if targets else None
    return f"{value:.4g}" if unit is None else f"{value:.4g} {unit}"


def make_line_callback(progress: Callable[[str], None]) -> Any:
    """Return a TrainingCallback that calls a function after each epoch, with its metrics in words."""
    from normfold.models.training.callback import TrainingCallback

    class LineCallback(TrainingCallback):
        """Calls a function after each epoch."""

        def __init__(self) -> None:
            self.epochs = 0

        def on_note(self, sentence: str) -> None:
            progress(sentence)

        def on_start(self, epochs_done: int, epochs: int, steps: int) -> None:  # noqa: ARG002 -- the base's
            self.epochs = epochs

        def on_epoch(self, metrics: EpochMetrics) -> None:
            progress(epoch_line(metrics, self.epochs))

    return LineCallback()


def make_bar_callback() -> Any:
    """Return a TrainingCallback with a progress bar, `bar`, to be entered while it trains."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from normfold.models.training.callback import TrainingCallback

    class ProgressBar(TrainingCallback):
        """A line for each epoch, and below them a bar on a terminal."""

        def __init__(self) -> None:
            self.bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("steps"),
                TimeRemainingColumn(),
                console=err,
                disable=not err.is_terminal or not is_main_process(),
            )
            self.task: TaskID | None = None
            self.epochs = 0

        def on_note(self, sentence: str) -> None:
            err.print(sentence, markup=False, highlight=False)

        def on_start(self, epochs_done: int, epochs: int, steps: int) -> None:
            self.epochs = epochs
            self.task = self.bar.add_task(f"epoch {epochs_done}/{epochs}", total=epochs * steps)
            self.bar.advance(self.task, epochs_done * steps)

        def on_step(self) -> None:
            assert self.task is not None
            self.bar.advance(self.task)

        def on_epoch(self, metrics: EpochMetrics) -> None:
            assert self.task is not None
            self.bar.update(self.task, description=f"epoch {metrics.epoch}/{self.epochs}")
            err.print(epoch_line(metrics, self.epochs))  # above the bar, where it stays

    return ProgressBar()


def is_main_process() -> bool:
    """Return whether this process speaks for all of a run."""
    return os.environ.get("RANK", "0") == "0"  # set by torchrun and accelerate launch
