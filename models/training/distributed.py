"""Distributed training and mixed precision through accelerate, which only these functions import."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import torch
from torch import nn

from normfold.models.errors import PrecisionError, TrainingWarning
from normfold.models.tasks.task import Result
from normfold.models.training.config import TrainConfig, warn_about_batch_size

if TYPE_CHECKING:
    from accelerate import Accelerator


def make_accelerator(settings: TrainConfig) -> Accelerator:
    """Return an accelerator in the precision of the settings; it joins the processes of torchrun or accelerate launch.

    Raises:
        PrecisionError: the precision needs another device.
    """
    from accelerate import Accelerator

    mixed = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}[settings.precision]
    on_cpu = not torch.accelerator.is_available()
    if on_cpu and settings.precision == "fp16":  # accelerate would train in fp32 without a warning
        raise PrecisionError("Precision 'fp16' needs a GPU, and this machine has none; use bf16 or fp32.")
    try:
        # Without cpu=True on a machine without a GPU, accelerate treats each process as the only one.
        return Accelerator(mixed_precision=mixed, cpu=on_cpu)
    except ValueError as error:
        raise PrecisionError(f"Precision {settings.precision!r} is not available here: {error}") from None


def release(accelerator: Accelerator) -> None:
    """Leave the group of processes."""
    from accelerate.state import AcceleratorState

    accelerator.end_training()
    # Without a reset, a second run in this process keeps the precision and device of the first.
    AcceleratorState._reset_state(reset_partial_state=True)


def synchronise_batchnorms(network: nn.Module, settings: TrainConfig, accelerator: Accelerator) -> nn.Module:
    """Replace BatchNorm by SyncBatchNorm on several GPUs, so that its statistics are those of all processes' rows.

    Args:
        network: as built.
        settings: of the run.
        accelerator: device and processes.

    Returns:
        The network with SyncBatchNorm layers of the same names and values; unchanged in one process or on CPUs.

    Warns:
        TrainingWarning: fewer than 32 or more than 256 rows in BatchNorm's batch, or unsynchronised processes.
    """
    processes = accelerator.num_processes
    if processes > 1 and accelerator.device.type == "cuda":
        warn_about_batch_size(settings.batch_size)
        synchronised: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        return synchronised
    warn_about_batch_size(settings.batch_size // processes)
    if processes > 1:
        warnings.warn(
            f"BatchNorm cannot be synchronised on CPU: each of {processes} processes has statistics of its own rows.",
            TrainingWarning,
            stacklevel=2,
        )
    return network


def broadcast_result(result: Result) -> Result:
    """Return the main process's result in every process, so that all of them stop in the same epoch."""
    from accelerate.utils import broadcast_object_list

    results: list[Result] = broadcast_object_list([result])
    return results[0]
