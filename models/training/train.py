"""Training, from top to bottom: fit calls train_one_epoch and evaluate, and leaves a run folder."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normfold.models.data.batches import epoch_batches, seed_everything
from normfold.models.data.data import Dataset
from normfold.models.data.splits import IndexArray
from normfold.models.errors import DivergedError
from normfold.models.training.checkpoint import RunConfig, load_checkpoint, save_config
from normfold.models.training.config import TrainConfig
from normfold.models.training.curves import CURVES_NAME, draw_curves
from normfold.models.training.distributed import agree, make_accelerator, release
from normfold.models.training.metrics import Result, mean_iou
from normfold.models.training.optimizer import one_cycle
from normfold.models.training.reporter import Reporter
from normfold.models.training.resume import check_same_run, read_progress
from normfold.models.training.run import Run, begin_run, record_epoch, with_metrics
from normfold.models.training.run_folder import refuse_existing_run, whole_or_nothing

if TYPE_CHECKING:
    from accelerate import Accelerator

EVALUATION_ROWS, EVALUATION_VALUES = 1024, 2**22
"""Rows at a time in evaluation, where the batch size changes no result, and values of them: of large pictures fewer."""


@dataclass(frozen=True)
class FitResult:
    """What a run came to. The checkpoint in `folder` is that of `best_epoch`."""

    folder: Path
    config: RunConfig
    epochs: int
    best_epoch: int
    seconds: float
    """Of this call; epochs before a resume are not in it."""

    @property
    def metrics(self) -> dict[str, float]:
        """Loss and accuracy of the checkpoint on the validation and test splits, and mean IoU if they are of masks."""
        return self.config.card.metrics


def fit(
    config: RunConfig, dataset: Dataset, folder: Path, *, resume: bool = False, reporter: Reporter | None = None
) -> FitResult:
    """Train a network, and leave its best state, by validation, in a run folder.

    Started by `accelerate launch` or `torchrun` it trains in several processes. On GPUs BatchNorm then takes its
    statistics over all of them; on CPUs each process takes its own, and those of the first are kept.

    Args:
        config: from `make_run_config`.
        dataset: from `load_dataset(config.data)`.
        folder: made if need be.
        resume: go on after the last epoch of the run in `folder`, which must have the same config and data. On CPU
            the weights come out the same, bit for bit, as without the interruption.
        reporter: hears of progress.

    Raises:
        RunFolderError: `folder` holds a run and `resume` is false, or holds none and it is true, or another one.
        ArchitectureError: the network cannot be built, or does not return logits.
        DivergedError: the loss is no longer finite.
        UnmeasurableError: the loss on the test split is not finite; the checkpoint stands.
        OSError: the folder cannot be written. Of a run without a checkpoint nothing stays behind, after any error.
        PrecisionError: the precision needs another device.

    Warns:
        TrainingWarning: fewer than 32 or more than 256 rows in BatchNorm's batch, or unsynchronised processes.
    """
    if resume:
        check_same_run(folder, read_progress(folder).config, config)
    else:
        refuse_existing_run(folder)
    assert config.train is not None
    accelerator = make_accelerator(config.train)
    try:
        with whole_or_nothing(folder, new=not resume) if accelerator.is_main_process else nullcontext():
            return _fit(config, config.train, dataset, folder, resume, reporter or Reporter(), accelerator)
    finally:
        release(accelerator)


def _fit(
    config: RunConfig,
    settings: TrainConfig,
    dataset: Dataset,
    folder: Path,
    resume: bool,
    reporter: Reporter,
    accelerator: Accelerator,
) -> FitResult:
    started = time.perf_counter()
    main, process, processes = accelerator.is_main_process, accelerator.process_index, accelerator.num_processes
    train_x, train_y = _to_device(dataset, dataset.splits.train, accelerator.device)
    held_x, held_y = _to_device(dataset, dataset.splits.validation, accelerator.device)
    run = begin_run(config, settings, dataset.target_shape, folder, resume, accelerator)

    def cut(epoch: int) -> list[IndexArray]:
        return epoch_batches(
            len(train_y), settings.batch_size, seed=settings.seed, epoch=epoch, process=process, processes=processes
        )

    if main:
        reporter.start(run.progress.epoch, settings.epochs, len(cut(1)))
    while not run.progress.finished:
        epoch, epoch_started = run.progress.epoch + 1, time.perf_counter()
        seed_everything(settings.seed, epoch, process)
        heard = reporter if main else None
        train = train_one_epoch(
            run.trained, train_x, train_y, cut(epoch), run.optimizer, settings, epoch, accelerator, heard
        )
        validation = agree(evaluate(run.network, held_x, held_y))
        for loss in (train.loss, validation.loss):
            if not math.isfinite(loss):
                raise DivergedError(epoch, loss, settings.peak_lr)
        metrics = record_epoch(run, train, validation, round(time.perf_counter() - epoch_started, 3))
        if main:
            reporter.epoch(metrics)

    accelerator.wait_for_everyone()
    finished = _finish(run, dataset)
    return FitResult(folder, finished, run.progress.epoch, run.progress.best_epoch, time.perf_counter() - started)


def _finish(run: Run, dataset: Dataset) -> RunConfig:
    """Measure the checkpoint as it was written, in fp32, also on the test split, which nothing has seen before."""
    network = load_checkpoint(run.folder).network
    rows = {"validation": dataset.splits.validation, "test": dataset.splits.test}
    cpu = torch.device("cpu")
    results = {split: evaluate(network, *_to_device(dataset, part, cpu)) for split, part in rows.items()}
    best_epoch = run.progress.best_epoch
    finished = with_metrics(run.config, run.folder, best_epoch, results)
    if run.accelerator.is_main_process:
        save_config(run.folder, finished)
        draw_curves(run.records, best_epoch, run.folder / CURVES_NAME, run.config.card.origin)
    return finished


def train_one_epoch(
    network: nn.Module,
    x: Tensor,
    y: Tensor,
    batches: Sequence[IndexArray],
    optimizer: torch.optim.Optimizer,
    settings: TrainConfig,
    epoch: int,
    accelerator: Accelerator,
    reporter: Reporter | None = None,
) -> Result:
    """Pass once over the batches, in train mode.

    Args:
        network: as prepared by the accelerator.
        x: (N, *input_shape), float32.
        y: (N,), or (N, height, width) for masks; int64.
        batches: rows of each step.
        optimizer: as prepared by the accelerator; its learning rate is set here, step by step.
        settings: of the run.
        epoch: from 1.
        accelerator: knows device, precision and processes.
        reporter: hears of each step.

    Returns:
        Mean over all rows (of masks, over all pixels), each as it was when the network saw it; the loss without label
        smoothing.
    """
    network.train()
    steps = settings.epochs * len(batches)
    totals = torch.zeros(3, dtype=torch.float64, device=x.device)  # loss, correct, rows or pixels
    for index, rows in enumerate(batches):
        lr = one_cycle((epoch - 1) * len(batches) + index, steps, settings.peak_lr, settings.warmup_fraction)
        for group in optimizer.param_groups:
            group["lr"] = lr
        selected = torch.from_numpy(rows).to(x.device)
        xb, yb = x[selected], y[selected]  # (B, *input_shape), (B, *target_shape)
        logits = network(xb)  # (B, classes, *target_shape)
        loss = F.cross_entropy(logits, yb, label_smoothing=settings.label_smoothing)  # ()
        optimizer.zero_grad(set_to_none=True)
        accelerator.backward(loss)
        if settings.clip_norm is not None:
            accelerator.clip_grad_norm_(network.parameters(), settings.clip_norm)
        optimizer.step()
        with torch.no_grad():  # reported without smoothing, so that it can be set beside the validation loss
            plain = F.cross_entropy(logits.float(), yb, reduction="sum")
            correct = (logits.argmax(dim=1) == yb).sum()
            totals += torch.stack([plain, correct, torch.tensor(yb.numel(), device=x.device)])
        if reporter is not None:
            reporter.step()
    loss_sum, correct_sum, count = accelerator.reduce(totals, reduction="sum").tolist()
    return Result(loss_sum / count, correct_sum / count)


@torch.no_grad()
def evaluate(network: nn.Module, x: Tensor, y: Tensor) -> Result:
    """Measure a network in eval mode, without label smoothing; its mode is left as it was found.

    Args:
        network: any that returns logits (N, classes), or (N, classes, height, width) for masks.
        x: (N, *input_shape), float32.
        y: (N,), or (N, height, width) for masks; int64.

    Returns:
        Mean over all rows; of masks, over all pixels, and their mean IoU.
    """
    was_training = network.training
    network.eval()
    loss = correct = 0.0
    confusion: Tensor | None = None
    rows = max(1, min(EVALUATION_ROWS, EVALUATION_VALUES // math.prod(x.shape[1:])))
    for xb, yb in zip(torch.split(x, rows), torch.split(y, rows), strict=True):
        logits = network(xb).float()  # (B, classes, *target_shape)
        predicted = logits.argmax(dim=1)  # (B, *target_shape)
        loss += F.cross_entropy(logits, yb, reduction="sum").item()
        correct += (predicted == yb).sum().item()
        if y.ndim > 1:
            counted = _confusion(yb, predicted, logits.shape[1])
            confusion = counted if confusion is None else confusion + counted
    network.train(was_training)
    return Result(loss / y.numel(), correct / y.numel(), None if confusion is None else mean_iou(confusion))


def _confusion(y: Tensor, predicted: Tensor, classes: int) -> Tensor:
    """Count pixels by their class, and by the one that they were taken for: (classes, classes)."""
    return torch.bincount((y * classes + predicted).flatten(), minlength=classes**2).reshape(classes, classes)


def _to_device(dataset: Dataset, rows: IndexArray, device: torch.device) -> tuple[Tensor, Tensor]:
    x, y = torch.from_numpy(dataset.tensors(rows)), torch.from_numpy(dataset.y[rows])
    return x.to(device), y.to(device)
