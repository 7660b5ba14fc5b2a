"""The state of a run during one call of `fit`, and the files that are written after an epoch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from normfold.models.architectures.registry import build, check_outputs
from normfold.models.data.batches import seed_everything
from normfold.models.errors import UnmeasurableError
from normfold.models.frozen import freeze_batchnorms, frozen_batchnorms, frozen_layers
from normfold.models.tasks.task import Result, Task
from normfold.models.training.checkpoint import RunConfig, save_checkpoint
from normfold.models.training.config import TrainConfig
from normfold.models.training.distributed import synchronise_batchnorms
from normfold.models.training.metrics import EpochMetrics, append_metrics, read_metrics, rewrite_metrics
from normfold.models.training.optimizer import make_optimizer
from normfold.models.training.resume import Progress, read_progress, restore_state, save_state

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass
class Run:
    """State of a run during one call of `fit`; progress and records change with every epoch."""

    config: RunConfig
    task: Task
    folder: Path
    network: nn.Module
    """The network without the accelerator's wrapper."""
    trained: nn.Module
    """The network as prepared by the accelerator, with the same weights."""
    optimizer: torch.optim.Optimizer
    accelerator: Accelerator
    progress: Progress
    records: list[EpochMetrics]
    frozen: tuple[nn.Module, ...]
    """Layers of the network that stay in eval mode."""


def begin_run(
    config: RunConfig,
    settings: TrainConfig,
    task: Task,
    target_shape: tuple[int, ...],
    folder: Path,
    resume: bool,
    accelerator: Accelerator,
) -> Run:
    """Build network and optimizer in their initial state, or in that of the run in `folder` if it is resumed.

    Args:
        config: of the run.
        settings: training settings of `config`.
        task: loss, metrics and shape of the outputs.
        target_shape: shape of one sample's target: () or (height, width).
        folder: run folder.
        resume: load the state in `folder`.
        accelerator: device, precision and processes.

    Raises:
        ArchitectureError: the network cannot be built, or does not return the task's outputs.
        RunFolderError: the state or the metrics in `folder` are damaged.
        WeightsError: the state is of another network.
        OSError: the folder cannot be written.
    """
    seed_everything(settings.seed, epoch=0, process=0)  # every process draws the same initial weights
    network = build(config.architecture)
    if settings.freeze_bn is not None:
        freeze_batchnorms(network, settings.freeze_bn)
    frozen = frozen_layers(network)
    assert config.architecture.classes is not None
    output_shape = task.output_shape(config.architecture.classes, target_shape)
    check_outputs(network, config.architecture, output_shape, task.name)
    network = synchronise_batchnorms(network, settings, accelerator)
    kept = tuple(layer for name, layer in network.named_modules() if name in frozen)  # by name: others may replace them
    optimizer = make_optimizer(network, settings)
    progress = Progress(config=config)
    if resume:
        progress = read_progress(folder)
        restore_state(folder, network, optimizer)
    records = read_metrics(folder, progress.epoch)
    trained, optimizer = accelerator.prepare(network, optimizer)
    if progress.loss_scale is not None and accelerator.scaler is not None:
        accelerator.scaler.load_state_dict(progress.loss_scale)
    if accelerator.is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
        rewrite_metrics(folder, records)
        save_state(folder, progress, network, optimizer)  # from now on the run can be resumed
    config = config.model_copy(update={"frozen_batchnorms": frozen_batchnorms(frozen)})
    return Run(config, task, folder, network, trained, optimizer, accelerator, progress, records, kept)


def record_epoch(run: Run, train: Result, validation: Result, seconds: float) -> EpochMetrics:
    """Record a finished epoch: write its metrics, the checkpoint if it is the best so far, and the state to resume.

    Args:
        run: progress and records are updated.
        train: result on the training split, during the epoch.
        validation: result on the validation split, after the epoch.
        seconds: duration of the epoch.

    Raises:
        OSError: the folder cannot be written.
    """
    epoch = run.progress.epoch + 1
    metrics = EpochMetrics(
        epoch=epoch,
        lr=run.optimizer.param_groups[0]["lr"],
        train=train.values,
        validation=validation.values,
        seconds=seconds,
    )
    run.records.append(metrics)
    score = run.task.score(validation)
    better = run.progress.is_better(score, validation.loss)
    scaler = run.accelerator.scaler
    changes: dict[str, Any] = {"epoch": epoch, "loss_scale": None if scaler is None else scaler.state_dict()}
    if better:
        changes |= {"best_epoch": epoch, "best_score": score, "best_loss": validation.loss}
    run.progress = run.progress.model_copy(update=changes)
    if run.accelerator.is_main_process:
        append_metrics(run.folder, metrics)
        if better:
            measured = with_metrics(run.config, run.folder, epoch, {"validation": validation})
            save_checkpoint(run.folder, run.network, measured)
        save_state(run.folder, run.progress, run.network, run.optimizer)  # last, since it marks the epoch as done
    return metrics


def with_metrics(config: RunConfig, folder: Path, epoch: int, results: dict[str, Result]) -> RunConfig:
    """Return the config with these results as metrics of its source card.

    Args:
        config: of the run.
        folder: run folder, for the error.
        epoch: epoch of the network that was evaluated.
        results: by split.

    Raises:
        UnmeasurableError: a loss is not finite, which JSON cannot record.
    """
    metrics: dict[str, float] = {}
    for split, result in results.items():
        if not math.isfinite(result.loss):
            raise UnmeasurableError(split, result.loss, folder)
        metrics |= {f"{split}_{name}": value for name, value in result.values.items()}
    return config.model_copy(update={"epoch": epoch, "card": config.card.model_copy(update={"metrics": metrics})})
