"""Training of a network: `fit` runs the epochs, `train_one_epoch` the steps of an epoch.

batches -> outputs -> loss of the task -> gradients -> optimizer step, with the schedule's learning rate
after each epoch: evaluate on the validation split, write the checkpoint if it is the best, write the state to resume
at the end: evaluate the best checkpoint on the validation and test splits
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from normfold.models.data.augmentation.choose import NO_AUGMENTATION, Augmentation, make_augmentation
from normfold.models.data.batches import epoch_batches, seed_everything
from normfold.models.data.data import Dataset
from normfold.models.data.loading.rows import Rows, rows_of
from normfold.models.data.splits import IndexArray
from normfold.models.errors import DivergedError
from normfold.models.fine_tuning.more_epochs import ScheduleStart
from normfold.models.frozen import put_into_train_mode
from normfold.models.tasks.task import Result, Task
from normfold.models.tasks.weights import row_weights
from normfold.models.training.callback import TrainingCallback
from normfold.models.training.checkpoint import RunConfig, load_checkpoint, save_config
from normfold.models.training.config import TrainConfig
from normfold.models.training.curves import CONFUSION_NAME, CURVES_NAME, draw_confusion, draw_curves
from normfold.models.training.distributed import broadcast_result, make_accelerator, release
from normfold.models.training.evaluate import evaluate_rows, task_of_run
from normfold.models.training.learning_rate.schedules import learning_rate
from normfold.models.training.loop.accumulation import count_steps, micro_batches
from normfold.models.training.loop.averaging import AveragedWeights, choose_rows
from normfold.models.training.loop.compilation import named_compilation_errors
from normfold.models.training.loop.threads import use_threads
from normfold.models.training.optimizer import set_learning_rate
from normfold.models.training.resume import check_same_run, read_progress
from normfold.models.training.run import Run, begin_epoch, begin_run, record_epoch, with_metrics
from normfold.models.training.run_folder import check_no_run, remove_failed_run

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True)
class FitResult:
    """The result of a training run; `folder` holds the checkpoint of `best_epoch`."""

    folder: Path
    config: RunConfig
    epochs: int
    """Epochs done, before a resume too."""
    best_epoch: int
    """Epoch of the best validation result, from 1."""
    seconds: float
    """Duration of this call of `fit`."""

    @property
    def metrics(self) -> dict[str, float]:
        """Loss and the task's metrics of the checkpoint on the validation and test splits."""
        return self.config.card.metrics


def fit(
    config: RunConfig,
    dataset: Dataset,
    folder: Path,
    *,
    resume: bool = False,
    callback: TrainingCallback | None = None,
) -> FitResult:
    """Train a network, and write the checkpoint of its best epoch, by validation, into a run folder.

    Started by `accelerate launch` or `torchrun`, it trains in several processes. On GPUs BatchNorm then computes its
    statistics over all of them; on CPUs each process computes its own, and the main process's are saved.
    With pixels without a class, each process's gradient is the mean over its own pixels, and all processes count alike.

    Args:
        config: from `make_run_config`.
        dataset: from `load_dataset(config.data)`.
        folder: created if it does not exist.
        resume: continue the run in `folder`, which must have the same config and data, after its last epoch. On CPU the
            resulting weights are bit for bit those of an uninterrupted run. Only `epochs` and `patience` may be others:
            the learning rate's schedule then ends in the new last epoch, see `ScheduleStart`.
        callback: is called with the progress, in the main process.

    Raises:
        RunFolderError: `folder` holds a run and `resume` is false, or `resume` is true and it holds none, or another.
        ArchitectureError: the network cannot be built, or does not return the task's outputs.
        CompilationError: `compile` is given, and the network cannot be compiled.
        CompilerError: `compile` is given, and the machine has no working compiler.
        DataError: a setting is not for the task; or `channels_last` is given, and samples are neither images nor
            volumes.
        FunctionError: a loss or metric of the user's own cannot be imported, or fails.
        DivergedError: the loss is not finite.
        UnmeasurableError: the loss on the validation or test split is not finite; the checkpoint is intact.
        OSError: the folder cannot be written. After any error, a new run without a checkpoint leaves no files.
        PrecisionError: the precision needs another device.

    Warns:
        TrainingWarning: fewer than 32 or more than 256 rows in BatchNorm's batch, or unsynchronised processes.
    """
    if resume:
        check_same_run(folder, read_progress(folder), config)
    else:
        check_no_run(folder)
    assert config.train is not None
    accelerator = make_accelerator(config.train)
    try:
        with (
            use_threads(config.train.threads),
            named_compilation_errors(config.architecture.name, compiled=config.train.compile),
            remove_failed_run(folder, new=not resume) if accelerator.is_main_process else nullcontext(),
        ):
            return _fit(config, config.train, dataset, folder, resume, callback or TrainingCallback(), accelerator)
    finally:
        release(accelerator)


def _fit(
    config: RunConfig,
    settings: TrainConfig,
    dataset: Dataset,
    folder: Path,
    resume: bool,
    callback: TrainingCallback,
    accelerator: Accelerator,
) -> FitResult:
    started = time.perf_counter()
    is_main, process, processes = accelerator.is_main_process, accelerator.process_index, accelerator.num_processes
    train_rows = rows_of(dataset, dataset.splits.train, accelerator.device)
    validation_rows = rows_of(dataset, dataset.splits.validation, accelerator.device)
    task = task_of_run(dataset, settings)
    weights = row_weights(dataset, settings.sampler)
    augmentation = make_augmentation(
        settings.augment,
        settings.mixup,
        dataset.preprocessing,
        source=dataset.name,
        seed=settings.seed,
        process=process,
    )
    run = begin_run(config, settings, task, dataset.target_shape, folder, resume, accelerator)

    def batches_of(epoch: int) -> list[IndexArray]:
        rows = len(dataset.splits.train)
        return epoch_batches(
            rows,
            settings.batch_size,
            seed=settings.seed,
            epoch=epoch,
            process=process,
            processes=processes,
            weights=weights,
        )

    if is_main:
        for note in run.notes:
            callback.on_note(note)
        callback.on_network(run.network)
        callback.on_start(run.progress.epoch, settings.epochs, len(batches_of(1)))
    while not run.progress.finished:
        epoch, epoch_started = run.progress.epoch + 1, time.perf_counter()
        seed_everything(settings.seed, epoch, process)
        begin_epoch(run, epoch)
        step_callback = callback if is_main else None
        train = train_one_epoch(
            run.trained,
            train_rows,
            batches_of(epoch),
            run.optimizer,
            settings,
            epoch,
            accelerator,
            task,
            step_callback,
            frozen=run.frozen,
            schedule=run.progress.schedule,
            averaged=run.averaged,
            augmentation=augmentation,
        )
        validation = broadcast_result(evaluate_rows(run.network, validation_rows, task))
        for loss in (train.loss, validation.loss):
            if not math.isfinite(loss):
                raise DivergedError(epoch, loss, settings.peak_lr)
        averaged = None
        if run.averaged is not None:
            x, _ = next(train_rows.batches([choose_rows(train_rows.shape)]))  # (rows, *input_shape)
            run.averaged.recalibrate(x, run.freezing.batchnorms_in(epoch))
            averaged = broadcast_result(evaluate_rows(run.averaged.network, validation_rows, task))
        metrics = record_epoch(run, train, validation, round(time.perf_counter() - epoch_started, 3), averaged)
        if is_main:
            callback.on_epoch(metrics)

    accelerator.wait_for_everyone()
    finished = _finish(run, dataset)
    return FitResult(folder, finished, run.progress.epoch, run.progress.best_epoch, time.perf_counter() - started)


def train_one_epoch(
    network: nn.Module,
    data: Rows,
    batches: Sequence[IndexArray],
    optimizer: torch.optim.Optimizer,
    settings: TrainConfig,
    epoch: int,
    accelerator: Accelerator,
    task: Task,
    callback: TrainingCallback | None = None,
    frozen: Sequence[nn.Module] = (),
    schedule: ScheduleStart = ScheduleStart(),  # noqa: B008 -- it is frozen
    averaged: AveragedWeights | None = None,
    augmentation: Augmentation = NO_AUGMENTATION,
) -> Result:
    """Train for one epoch, in train mode.

    Args:
        network: as prepared by the accelerator.
        data: samples (N, *input_shape), float32, and targets of the task (N, *target_shape).
        batches: rows of each step.
        optimizer: as prepared by the accelerator; its learning rate is set at every step, which has as many batches as
            the settings accumulate.
        settings: of the run.
        epoch: from 1.
        accelerator: device, precision and processes.
        task: loss and metrics.
        callback: is called after each step.
        frozen: layers of the network that stay in eval mode.
        schedule: where the learning rate's schedule began.
        averaged: moving average of the weights, which takes those after each step.
        augmentation: changes of the batches.

    Returns:
        The task's means over all rows, each at the step in which it was trained on.
    """
    put_into_train_mode(network, frozen)
    steps_per_epoch = count_steps(len(batches), settings.accumulate)
    totals = torch.zeros(3, dtype=torch.float64, device=accelerator.device)  # the task's sums
    parts = micro_batches(batches, settings.accumulate)
    read = data.batches(batches, augmentation.of_epoch(epoch))
    for index, (part, (xb, yb)) in enumerate(zip(parts, read, strict=True)):  # (B, *input_shape), (B, *target_shape)
        if part.is_first:
            step, steps = schedule.position(epoch, part.step, steps_per_epoch, settings.epochs)
            set_learning_rate(optimizer, learning_rate(step, steps, settings))
            optimizer.zero_grad(set_to_none=True)
        with nullcontext() if part.is_last else accelerator.no_sync(network):  # processes add gradients once a step
            mixed = augmentation.mix(xb, epoch, index)
            outputs = network(xb if mixed is None else mixed.samples(xb))  # (B, *output_shape)
            loss = task.loss(outputs, yb) if mixed is None else mixed.loss(task.loss, outputs, yb)  # ()
            accelerator.backward(loss if part.share == 1 else loss * part.share)
        if part.is_last:
            if settings.clip_norm is not None:
                accelerator.clip_grad_norm_(network.parameters(), settings.clip_norm)
            optimizer.step()
            if averaged is not None:
                averaged.update()
        with torch.no_grad():
            totals += task.sums(outputs, yb)
        if callback is not None:
            callback.on_step()
    return task.of_sums(accelerator.reduce(totals, reduction="sum").tolist())


def _finish(run: Run, dataset: Dataset) -> RunConfig:
    """Evaluate the checkpoint, as read from its file and in fp32, on the validation and test splits, and record it."""
    checkpoint = load_checkpoint(run.folder)
    rows = {"validation": dataset.splits.validation, "test": dataset.splits.test}
    cpu = torch.device("cpu")
    results = {
        split: evaluate_rows(checkpoint.network, rows_of(dataset, part, cpu), run.task, is_final=True)
        for split, part in rows.items()
    }
    best_epoch = run.progress.best_epoch
    finished = with_metrics(
        run.config_of(best_epoch, averaged=checkpoint.config.averaged), run.folder, best_epoch, results
    )
    if run.accelerator.is_main_process:
        save_config(run.folder, finished)
        draw_curves(run.records, best_epoch, run.task, run.folder / CURVES_NAME, run.config.title)
        confusion, labels = results["test"].confusion, run.config.card.labels
        if confusion is not None and labels is not None:
            draw_confusion(confusion, labels, run.folder / CONFUSION_NAME, run.config.title)
    return finished
