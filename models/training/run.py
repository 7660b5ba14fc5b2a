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
from normfold.models.fine_tuning.freezing import Freezing, plan_freezing
from normfold.models.fine_tuning.initial_weights import say_what_was_taken, start_from
from normfold.models.fine_tuning.more_epochs import say_how_it_goes_on
from normfold.models.frozen import freeze_batchnorms, frozen_layers
from normfold.models.tasks.task import Result, Task
from normfold.models.training.checkpoint import RunConfig, save_checkpoint
from normfold.models.training.config import TrainConfig
from normfold.models.training.distributed import synchronise_batchnorms
from normfold.models.training.loop.averaging import AveragedWeights
from normfold.models.training.loop.compilation import compile_network
from normfold.models.training.loop.memory_format import put_channels_last
from normfold.models.training.metrics import EpochMetrics, append_metrics, read_metrics, rewrite_metrics
from normfold.models.training.optimizer import make_optimizer
from normfold.models.training.outputs.kept_epochs import keep_epoch
from normfold.models.training.resume import Progress, go_on, read_progress, restore_state, save_state

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
    freezing: Freezing
    """What is frozen in which epochs."""
    frozen: tuple[nn.Module, ...] = ()
    """Layers of the network that stay in eval mode in the present epoch."""
    averaged: AveragedWeights | None = None
    """Moving average of the network's weights, if the run has one."""
    notes: tuple[str, ...] = ()
    """Sentences on how the run begins."""

    def config_of(self, epoch: int, *, averaged: bool) -> RunConfig:
        """Return the config of an epoch, from 1: its frozen BatchNorm layers, and whether its weights are averaged."""
        frozen = self.freezing.batchnorms_in(epoch)
        return self.config.model_copy(update={"frozen_batchnorms": frozen, "averaged": averaged})


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
        CompilerError: `compile` is given, and the machine has no working compiler.
        DataError: `channels_last` is given, and the samples are neither images nor volumes.
        RunFolderError: the state or the metrics in `folder` are damaged.
        FreezingError: the parameters that are to be frozen are none, or all.
        WeightsError: the state, or the file to start from, is of another network.
        OSError: the folder cannot be written.
    """
    seed_everything(settings.seed, epoch=0, process=0)  # every process draws the same initial weights
    network = build(config.architecture)
    if settings.freeze_bn is not None:
        freeze_batchnorms(network, settings.freeze_bn)
    frozen = frozen_layers(network)
    notes: list[str] = []
    assert config.architecture.classes is not None
    outputs = config.architecture.classes
    output_shape = task.output_shape(outputs, target_shape)
    check_outputs(network, config.architecture, output_shape, task.name)
    before = read_progress(folder) if resume else None
    if before is not None:
        config = config.model_copy(update={"initial_weights": before.config.initial_weights})
    elif config.initial_weights is not None:
        initial = start_from(network, config.initial_weights, outputs)
        config = config.model_copy(update={"initial_weights": initial})
        notes.append(say_what_was_taken(initial))
    new = () if config.initial_weights is None else config.initial_weights.new
    freezing = plan_freezing(network, frozen, settings.freeze, settings.freeze_epochs, new)
    network = synchronise_batchnorms(network, settings, accelerator)
    if settings.channels_last:
        put_channels_last(network, config.architecture.input_shape)
    optimizer = make_optimizer(network, settings)  # of parameters too that are frozen in the first epochs
    averaged = None if settings.ema is None else AveragedWeights(network, settings.ema)
    progress = Progress(config=config)
    if before is not None:
        progress = go_on(before, config)
        if progress.schedule != before.schedule:
            notes.append(say_how_it_goes_on(progress.schedule, settings.epochs))
        restore_state(folder, network, optimizer, averaged)
    records = read_metrics(folder, progress.epoch)
    freezing.set_gradients(network, progress.epoch + 1)
    trained, optimizer = accelerator.prepare(network, optimizer)
    if settings.compile:
        trained = compile_network(trained, accelerator.device)
    if progress.loss_scale is not None and accelerator.scaler is not None:
        accelerator.scaler.load_state_dict(progress.loss_scale)
    if accelerator.is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
        rewrite_metrics(folder, records)
        save_state(folder, progress, network, optimizer, averaged)  # from now on the run can be resumed
    if averaged is not None:
        averaged.to(accelerator.device)
    return Run(
        config=config,
        task=task,
        folder=folder,
        network=network,
        trained=trained,
        optimizer=optimizer,
        accelerator=accelerator,
        progress=progress,
        records=records,
        freezing=freezing,
        averaged=averaged,
        notes=tuple(notes),
    )


def begin_epoch(run: Run, epoch: int) -> None:
    """Freeze what is frozen in an epoch, from 1, and let train what no longer is."""
    layers = frozenset(run.freezing.layers_in(epoch))
    run.frozen = tuple(layer for name, layer in run.network.named_modules() if name in layers)
    if run.freezing.epochs and epoch == run.freezing.epochs + 1:
        run.freezing.set_gradients(run.network, epoch)
        if run.accelerator.num_processes > 1:  # DistributedDataParallel takes gradients of those that had them before
            prepared = run.accelerator.prepare_model(run.network)
            compiled = run.config.train is not None and run.config.train.compile
            run.trained = compile_network(prepared, run.accelerator.device) if compiled else prepared


def record_epoch(
    run: Run, train: Result, validation: Result, seconds: float, averaged: Result | None = None
) -> EpochMetrics:
    """Record a finished epoch: write its metrics, the checkpoint if it is the best so far, and the state to resume.

    Of the weights and their average, those that validate better are the epoch's.

    Args:
        run: progress and records are updated.
        train: result on the training split, during the epoch.
        validation: result on the validation split, after the epoch.
        seconds: duration of the epoch.
        averaged: result of the averaged weights on the validation split, if the run has them.

    Raises:
        OSError: the folder cannot be written.
    """
    epoch = run.progress.epoch + 1
    metrics = EpochMetrics(
        epoch=epoch,
        lr=run.optimizer.param_groups[0]["lr"],
        train=train.values,
        validation=validation.values,
        averaged={} if averaged is None else averaged.values,
        seconds=seconds,
    )
    run.records.append(metrics)
    network, result = run.network, validation
    if run.averaged is not None and averaged is not None and _rank(run.task, averaged) > _rank(run.task, validation):
        network, result = run.averaged.network, averaged
    score = run.task.score(result)
    better = run.progress.is_better(score, result.loss)
    scaler = run.accelerator.scaler
    changes: dict[str, Any] = {"epoch": epoch, "loss_scale": None if scaler is None else scaler.state_dict()}
    if better:
        changes |= {"best_epoch": epoch, "best_score": score, "best_loss": result.loss}
    run.progress = run.progress.model_copy(update=changes)
    if run.accelerator.is_main_process:
        append_metrics(run.folder, metrics)
        config = run.config_of(epoch, averaged=network is not run.network)
        measured = with_metrics(config, run.folder, epoch, {"validation": result})
        if better:
            save_checkpoint(run.folder, network, measured)
        if run.config.train is not None and run.config.train.keep is not None:
            keep_epoch(run.folder, run.config.train.keep, network, measured, score, result.loss)
        # Last, since it marks the epoch as done.
        save_state(run.folder, run.progress, run.network, run.optimizer, run.averaged)
    return metrics


def _rank(task: Task, result: Result) -> tuple[float, float]:
    return task.score(result), -result.loss


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
