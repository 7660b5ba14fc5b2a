"""The learning rate range test: the loss while the learning rate rises from very small to far too large.

Source: Smith 2017, arXiv:1506.01186, section 3.3. The rate rises exponentially, and stops where the loss explodes, as
in fastai's `lr_find`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import count, groupby, islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray

from normfold.models.data.batches import epoch_batches, seed_everything
from normfold.models.data.data import Dataset
from normfold.models.frozen import put_into_train_mode
from normfold.models.tasks.weights import row_weights
from normfold.models.training.checkpoint import RunConfig
from normfold.models.training.config import TrainConfig
from normfold.models.training.distributed import make_accelerator, release
from normfold.models.training.evaluate import task_of_run
from normfold.models.training.loop.accumulation import MicroBatch, micro_batches
from normfold.models.training.loop.compilation import named_compilation_errors
from normfold.models.training.loop.threads import use_threads
from normfold.models.training.optimizer import set_learning_rate
from normfold.models.training.run import Run, begin_epoch, begin_run

LOWEST, HIGHEST, STEPS = 1e-6, 10.0, 120
"""First and last learning rate, and the number of steps between them."""

EXPLOSION = 4.0
"""Multiple of the first loss at which the test ends."""

WIDTH = 4
"""Standard deviation in steps of the Gaussian that the losses are smoothed with; it shifts no minimum."""


@dataclass(frozen=True)
class RangeTest:
    """Loss by learning rate."""

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    """Training loss of each step, with the rate of the step before."""
    smooth: tuple[float, ...]
    """The same, smoothed."""
    suggestion: float | None
    """Rate at which the smoothed loss falls fastest; None if it falls nowhere."""


def range_test(config: RunConfig, dataset: Dataset, on_step: Callable[[float, float], None] | None = None) -> RangeTest:
    """Train a new network for some steps with a rising learning rate; nothing is written.

    Args:
        config: of the run that is planned; its schedule and number of epochs do not matter.
        dataset: from `load_dataset(config.data)`.
        on_step: called with learning rate and loss of every step.

    Raises:
        ArchitectureError, CompilationError, CompilerError, DataError, FreezingError, PrecisionError, WeightsError:
            as by `fit`.
    """
    settings = config.train
    assert settings is not None
    accelerator = make_accelerator(settings)
    task = task_of_run(dataset, settings)
    rates, losses = list[float](), list[float]()
    try:
        with (
            use_threads(settings.threads),
            named_compilation_errors(config.architecture.name, compiled=settings.compile),
            TemporaryDirectory() as folder,
        ):
            run = begin_run(config, settings, task, dataset.target_shape, Path(folder) / "run", False, accelerator)
            begin_epoch(run, 1)
            steps = _steps(run, settings, dataset)
            for index, step in enumerate(islice(steps, STEPS)):
                lr = LOWEST * (HIGHEST / LOWEST) ** (index / (STEPS - 1))
                loss = _train_step(run, dataset, step, lr)
                if not math.isfinite(loss) or (losses and loss > EXPLOSION * losses[0]):
                    break
                rates.append(lr)
                losses.append(loss)
                if on_step is not None:
                    on_step(lr, loss)
    finally:
        release(accelerator)
    return analyse(rates, losses)


def analyse(rates: list[float], losses: list[float]) -> RangeTest:
    """Smooth the losses, and return the rate at which they fall fastest.

    Args:
        rates: rising by the same factor from step to step.
        losses: of the steps.
    """
    smooth = _smooth(np.array(losses, np.float64))
    suggestion = None
    if len(smooth) > 2:
        lowest = int(smooth.argmin())
        slope = np.gradient(smooth)[: lowest + 1]  # by step, hence by the logarithm of the rate
        fastest = int(slope.argmin())
        if slope[fastest] < 0 and smooth[lowest] < 0.95 * smooth[0]:
            suggestion = float(f"{rates[fastest]:.2g}")
    return RangeTest(tuple(rates), tuple(losses), tuple(smooth.tolist()), suggestion)


def _steps(run: Run, settings: TrainConfig, dataset: Dataset) -> Iterator[list[MicroBatch]]:
    """Yield the batches of each step, epoch after epoch."""
    weights = row_weights(dataset, settings.sampler)
    process, processes = run.accelerator.process_index, run.accelerator.num_processes
    for epoch in count(1):
        seed_everything(settings.seed, epoch, process)
        batches = epoch_batches(
            len(dataset.splits.train),
            settings.batch_size,
            seed=settings.seed,
            epoch=epoch,
            process=process,
            processes=processes,
            weights=weights,
        )
        yield from (
            [*step] for _, step in groupby(micro_batches(batches, settings.accumulate), lambda batch: batch.step)
        )


def _train_step(run: Run, dataset: Dataset, step: list[MicroBatch], lr: float) -> float:
    """Train a step, and return its mean loss."""
    accelerator = run.accelerator
    put_into_train_mode(run.trained, run.frozen)
    set_learning_rate(run.optimizer, lr)
    run.optimizer.zero_grad(set_to_none=True)
    total = torch.zeros((), device=accelerator.device)
    for batch in step:
        rows = dataset.splits.train[batch.rows]
        x = torch.from_numpy(dataset.tensors(rows)).to(accelerator.device)  # (B, *input_shape)
        y = torch.from_numpy(dataset.targets(rows)).to(accelerator.device)  # (B, *target_shape)
        with nullcontext() if batch.is_last else accelerator.no_sync(run.trained):
            loss = run.task.loss(run.trained(x), y) * batch.share  # ()
            accelerator.backward(loss)
        total += loss.detach()
    if run.config.train is not None and run.config.train.clip_norm is not None:
        accelerator.clip_grad_norm_(run.trained.parameters(), run.config.train.clip_norm)
    run.optimizer.step()
    return float(accelerator.reduce(total, reduction="mean"))


def _smooth(losses: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the means of the losses, (steps,), weighted by a Gaussian of the distance in steps."""
    distance = np.arange(len(losses))[:, None] - np.arange(len(losses))[None, :]  # (steps, steps)
    weights = np.exp(-0.5 * (distance / WIDTH) ** 2)
    smooth: NDArray[np.float64] = weights @ losses / weights.sum(axis=1)
    return smooth
