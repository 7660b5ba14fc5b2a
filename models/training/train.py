"""Training of a network: `fit` runs the epochs, `train_one_epoch` the steps of an epoch.

batches -> outputs -> loss of the task -> gradients -> optimizer step, with the learning rate of one cycle
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
from torch import Tensor, nn

from normfold.models.data.batches import epoch_batches, seed_everything
from normfold.models.data.data import Dataset
from normfold.models.data.splits import IndexArray
from normfold.models.errors import DivergedError
from normfold.models.frozen import put_into_train_mode
from normfold.models.tasks.choose import make_task
from normfold.models.tasks.task import Result, Task
from normfold.models.training.callback import TrainingCallback
from normfold.models.training.checkpoint import RunConfig, load_checkpoint, save_config
from normfold.models.training.config import TrainConfig
from normfold.models.training.curves import CURVES_NAME, draw_curves
from normfold.models.training.distributed import broadcast_result, make_accelerator, release
from normfold.models.training.evaluate import evaluate
from normfold.models.training.optimizer import one_cycle
from normfold.models.training.resume import check_same_run, read_progress
from normfold.models.training.run import Run, begin_run, record_epoch, with_metrics
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
            resulting weights are bit for bit those of an uninterrupted run.
        callback: is called with the progress, in the main process.

    Raises:
        RunFolderError: `folder` holds a run and `resume` is false, or `resume` is true and it holds none, or another.
        ArchitectureError: the network cannot be built, or does not return the task's outputs.
        DivergedError: the loss is not finite.
        UnmeasurableError: the loss on the validation or test split is not finite; the checkpoint is intact.
        OSError: the folder cannot be written. After any error, a new run without a checkpoint leaves no files.
        PrecisionError: the precision needs another device.

    Warns:
        TrainingWarning: fewer than 32 or more than 256 rows in BatchNorm's batch, or unsynchronised processes.
    """
    if resume:
        check_same_run(folder, read_progress(folder).config, config)
    else:
        check_no_run(folder)
    assert config.train is not None
    accelerator = make_accelerator(config.train)
    try:
        with remove_failed_run(folder, new=not resume) if accelerator.is_main_process else nullcontext():
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
    train_x, train_y = _to_device(dataset, dataset.splits.train, accelerator.device)
    validation_x, validation_y = _to_device(dataset, dataset.splits.validation, accelerator.device)
    task = make_task(dataset, settings.label_smoothing)
    run = begin_run(config, settings, task, dataset.target_shape, folder, resume, accelerator)

    def batches_of(epoch: int) -> list[IndexArray]:
        return epoch_batches(
            len(train_y), settings.batch_size, seed=settings.seed, epoch=epoch, process=process, processes=processes
        )

    if is_main:
        callback.on_network(run.network)
        callback.on_start(run.progress.epoch, settings.epochs, len(batches_of(1)))
    while not run.progress.finished:
        epoch, epoch_started = run.progress.epoch + 1, time.perf_counter()
        seed_everything(settings.seed, epoch, process)
        step_callback = callback if is_main else None
        train = train_one_epoch(
            run.trained,
            train_x,
            train_y,
            batches_of(epoch),
            run.optimizer,
            settings,
            epoch,
            accelerator,
            task,
            step_callback,
            frozen=run.frozen,
        )
        validation = broadcast_result(evaluate(run.network, validation_x, validation_y, task))
        for loss in (train.loss, validation.loss):
            if not math.isfinite(loss):
                raise DivergedError(epoch, loss, settings.peak_lr)
        metrics = record_epoch(run, train, validation, round(time.perf_counter() - epoch_started, 3))
        if is_main:
            callback.on_epoch(metrics)

    accelerator.wait_for_everyone()
    finished = _finish(run, dataset)
    return FitResult(folder, finished, run.progress.epoch, run.progress.best_epoch, time.perf_counter() - started)


def train_one_epoch(
    network: nn.Module,
    x: Tensor,
    y: Tensor,
    batches: Sequence[IndexArray],
    optimizer: torch.optim.Optimizer,
    settings: TrainConfig,
    epoch: int,
    accelerator: Accelerator,
    task: Task,
    callback: TrainingCallback | None = None,
    frozen: Sequence[nn.Module] = (),
) -> Result:
    """Train for one epoch, in train mode.

    Args:
        network: as prepared by the accelerator.
        x: (N, *input_shape), float32.
        y: targets of the task, (N, *target_shape).
        batches: rows of each step.
        optimizer: as prepared by the accelerator; its learning rate is set at every step.
        settings: of the run.
        epoch: from 1.
        accelerator: device, precision and processes.
        task: loss and metrics.
        callback: is called after each step.
        frozen: layers of the network that stay in eval mode.

    Returns:
        The task's means over all rows, each at the step in which it was trained on.
    """
    put_into_train_mode(network, frozen)
    steps = settings.epochs * len(batches)
    totals = torch.zeros(3, dtype=torch.float64, device=x.device)  # the task's sums
    for index, rows in enumerate(batches):
        lr = one_cycle((epoch - 1) * len(batches) + index, steps, settings.peak_lr, settings.warmup_fraction)
        for group in optimizer.param_groups:
            group["lr"] = lr
        selected = torch.from_numpy(rows).to(x.device)  # (B,)
        xb, yb = x[selected], y[selected]  # (B, *input_shape), (B, *target_shape)
        outputs = network(xb)  # (B, *output_shape)
        loss = task.loss(outputs, yb)  # ()
        optimizer.zero_grad(set_to_none=True)
        accelerator.backward(loss)
        if settings.clip_norm is not None:
            accelerator.clip_grad_norm_(network.parameters(), settings.clip_norm)
        optimizer.step()
        with torch.no_grad():
            totals += task.sums(outputs, yb)
        if callback is not None:
            callback.on_step()
    return task.of_sums(accelerator.reduce(totals, reduction="sum").tolist())


def _finish(run: Run, dataset: Dataset) -> RunConfig:
    """Evaluate the checkpoint, as read from its file and in fp32, on the validation and test splits, and record it."""
    network = load_checkpoint(run.folder).network
    rows = {"validation": dataset.splits.validation, "test": dataset.splits.test}
    cpu = torch.device("cpu")
    results = {split: evaluate(network, *_to_device(dataset, part, cpu), run.task) for split, part in rows.items()}
    best_epoch = run.progress.best_epoch
    finished = with_metrics(run.config, run.folder, best_epoch, results)
    if run.accelerator.is_main_process:
        save_config(run.folder, finished)
        draw_curves(run.records, best_epoch, run.task.metric, run.folder / CURVES_NAME, run.config.card.origin)
    return finished


def _to_device(dataset: Dataset, rows: IndexArray, device: torch.device) -> tuple[Tensor, Tensor]:
    x, y = torch.from_numpy(dataset.tensors(rows)), torch.from_numpy(dataset.y[rows])
    return x.to(device), y.to(device)
