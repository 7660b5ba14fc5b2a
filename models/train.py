"""Training, from top to bottom: fit calls train_one_epoch and evaluate, and leaves a run folder."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.batches import epoch_batches, seed_everything
from models.checkpoint import RunConfig, load_checkpoint, save_checkpoint, save_config
from models.curves import draw_curves
from models.data import Dataset
from models.errors import DivergedError
from models.metrics import EpochMetrics, append_metrics, read_metrics, rewrite_metrics
from models.optimise import make_optimizer, one_cycle
from models.processes import agree, make_accelerator, release, synchronise_norms
from models.registry import build, check_logits
from models.resume import (
    Progress,
    check_same_run,
    read_progress,
    refuse_existing_run,
    restore_state,
    save_state,
)
from models.splits import IndexArray
from models.train_config import TrainConfig

if TYPE_CHECKING:
    from accelerate import Accelerator

CURVES_NAME = "curves.png"
EVALUATION_ROWS = 1024
"""Rows at a time in evaluation, where the batch size changes no result."""


class Reporter:
    """Hears of progress; this one says nothing. Called in the main process alone."""

    def start(self, epochs_done: int, epochs: int, steps: int) -> None:
        """Training begins: epochs in all, and steps in each."""

    def step(self) -> None:
        """One step is done."""

    def epoch(self, metrics: EpochMetrics) -> None:
        """One epoch is done, and its checkpoint written."""


@dataclass(frozen=True)
class Result:
    """Mean loss (nats) and accuracy over some rows."""

    loss: float
    accuracy: float


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
        """Loss and accuracy of the checkpoint on the validation and test splits."""
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

    seed_everything(settings.seed, epoch=0, process=0)  # every process draws the same first weights
    network = build(config.architecture)
    check_logits(network, config.architecture)
    network = synchronise_norms(network, settings, accelerator)
    optimizer = make_optimizer(network, settings)
    progress = Progress(config=config)
    if resume:
        progress = read_progress(folder)
        restore_state(folder, network, optimizer)
    records = read_metrics(folder, progress.epoch)
    trained, optimizer = accelerator.prepare(network, optimizer)  # network itself: without the wrapper of processes
    if progress.loss_scale is not None and accelerator.scaler is not None:
        accelerator.scaler.load_state_dict(progress.loss_scale)
    if main:
        folder.mkdir(parents=True, exist_ok=True)
        rewrite_metrics(folder, records)
        save_state(folder, progress, network, optimizer)  # from here on there is a run to resume

    def cut(epoch: int) -> list[IndexArray]:
        return epoch_batches(
            len(train_y), settings.batch_size, seed=settings.seed, epoch=epoch, process=process, processes=processes
        )

    if main:
        reporter.start(progress.epoch, settings.epochs, len(cut(1)))
    while not progress.finished:
        epoch, epoch_started = progress.epoch + 1, time.perf_counter()
        seed_everything(settings.seed, epoch, process)
        train = train_one_epoch(
            trained, train_x, train_y, cut(epoch), optimizer, settings, epoch, accelerator, reporter if main else None
        )
        validation = Result(*agree(list(astuple(evaluate(network, held_x, held_y)))))
        for loss in (train.loss, validation.loss):
            if not math.isfinite(loss):
                raise DivergedError(epoch, loss, settings.peak_lr)
        metrics = EpochMetrics(
            epoch=epoch,
            lr=optimizer.param_groups[0]["lr"],
            train_loss=train.loss,
            train_accuracy=train.accuracy,
            validation_loss=validation.loss,
            validation_accuracy=validation.accuracy,
            seconds=round(time.perf_counter() - epoch_started, 3),
        )
        records.append(metrics)
        scale = None if accelerator.scaler is None else accelerator.scaler.state_dict()
        progress = progress.model_copy(update={"epoch": epoch, "loss_scale": scale})
        better = progress.is_better(validation.accuracy, validation.loss)
        if better:
            best = {"best_epoch": epoch, "best_accuracy": validation.accuracy, "best_loss": validation.loss}
            progress = progress.model_copy(update=best)
        if main:
            append_metrics(folder, metrics)
            if better:
                save_checkpoint(folder, network, _with_metrics(config, epoch, {"validation": validation}))
            save_state(folder, progress, network, optimizer)  # last: what it counts as done is on disk
            reporter.epoch(metrics)

    accelerator.wait_for_everyone()
    finished = _finish(config, progress, records, dataset, folder, write=main)
    return FitResult(folder, finished, progress.epoch, progress.best_epoch, time.perf_counter() - started)


def _finish(
    config: RunConfig, progress: Progress, records: list[EpochMetrics], dataset: Dataset, folder: Path, *, write: bool
) -> RunConfig:
    """Measure the checkpoint as it was written, in fp32, also on the test split, which nothing has seen before."""
    network = load_checkpoint(folder).network
    rows = {"validation": dataset.splits.validation, "test": dataset.splits.test}
    cpu = torch.device("cpu")
    results = {split: evaluate(network, *_to_device(dataset, part, cpu)) for split, part in rows.items()}
    finished = _with_metrics(config, progress.best_epoch, results)
    if write:
        save_config(folder, finished)
        draw_curves(records, progress.best_epoch, folder / CURVES_NAME, config.card.origin)
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
        y: (N,), int64.
        batches: rows of each step.
        optimizer: as prepared by the accelerator; its learning rate is set here, step by step.
        settings: of the run.
        epoch: from 1.
        accelerator: knows device, precision and processes.
        reporter: hears of each step.

    Returns:
        Mean over all rows, each as it was when the network saw it; the loss without label smoothing.
    """
    network.train()
    steps = settings.epochs * len(batches)
    totals = torch.zeros(3, dtype=torch.float64, device=x.device)  # loss, correct, rows
    for index, rows in enumerate(batches):
        lr = one_cycle((epoch - 1) * len(batches) + index, steps, settings.peak_lr, settings.warmup_fraction)
        for group in optimizer.param_groups:
            group["lr"] = lr
        selected = torch.from_numpy(rows).to(x.device)
        xb, yb = x[selected], y[selected]  # (B, *input_shape), (B,)
        logits = network(xb)  # (B, classes)
        loss = F.cross_entropy(logits, yb, label_smoothing=settings.label_smoothing)  # ()
        optimizer.zero_grad(set_to_none=True)
        accelerator.backward(loss)
        if settings.clip_norm is not None:
            accelerator.clip_grad_norm_(network.parameters(), settings.clip_norm)
        optimizer.step()
        with torch.no_grad():  # reported without smoothing, so that it can be set beside the validation loss
            plain = F.cross_entropy(logits.float(), yb, reduction="sum")
            correct = (logits.argmax(dim=1) == yb).sum()
            totals += torch.stack([plain, correct, torch.tensor(len(yb), device=x.device)])
        if reporter is not None:
            reporter.step()
    loss_sum, correct_sum, row_count = accelerator.reduce(totals, reduction="sum").tolist()
    return Result(loss_sum / row_count, correct_sum / row_count)


@torch.no_grad()
def evaluate(network: nn.Module, x: Tensor, y: Tensor) -> Result:
    """Measure a network in eval mode, without label smoothing; its mode is left as it was found.

    Args:
        network: any that returns logits (N, classes).
        x: (N, *input_shape), float32.
        y: (N,), int64.
    """
    was_training = network.training
    network.eval()
    loss = correct = 0.0
    for xb, yb in zip(torch.split(x, EVALUATION_ROWS), torch.split(y, EVALUATION_ROWS), strict=True):
        logits = network(xb).float()  # (B, classes)
        loss += F.cross_entropy(logits, yb, reduction="sum").item()
        correct += (logits.argmax(dim=1) == yb).sum().item()
    network.train(was_training)
    return Result(loss / len(y), correct / len(y))


def _with_metrics(config: RunConfig, epoch: int, results: dict[str, Result]) -> RunConfig:
    metrics: dict[str, float] = {}
    for split, result in results.items():
        metrics |= {f"{split}_loss": result.loss, f"{split}_accuracy": result.accuracy}
    return config.model_copy(update={"epoch": epoch, "card": config.card.model_copy(update={"metrics": metrics})})


def _to_device(dataset: Dataset, rows: IndexArray, device: torch.device) -> tuple[Tensor, Tensor]:
    x, y = torch.from_numpy(dataset.tensors(rows)), torch.from_numpy(dataset.y[rows])
    return x.to(device), y.to(device)
