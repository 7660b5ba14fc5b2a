"""Several processes and mixed precision, through accelerate, which is imported only here and only when asked."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import torch
from torch import nn

from normfold.models.errors import PrecisionError, TrainingWarning
from normfold.models.training.config import TrainConfig, warn_of_batch_size
from normfold.models.training.metrics import Result

if TYPE_CHECKING:
    from accelerate import Accelerator


def make_accelerator(settings: TrainConfig) -> Accelerator:
    """Join the processes started by torchrun or accelerate launch, if any, in the precision asked for.

    Raises:
        PrecisionError: the precision needs another device.
    """
    from accelerate import Accelerator

    mixed = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}[settings.precision]
    on_cpu = not torch.accelerator.is_available()
    if on_cpu and settings.precision == "fp16":  # accelerate would train in fp32 and not say so
        raise PrecisionError("Precision 'fp16' needs a GPU, and there is none; take bf16 or fp32.")
    try:
        # Said outright: left to itself on a machine without a GPU, accelerate takes each process for the only one.
        return Accelerator(mixed_precision=mixed, cpu=on_cpu)
    except ValueError as error:
        raise PrecisionError(f"Precision {settings.precision!r} is not to be had here: {error}") from None


def release(accelerator: Accelerator) -> None:
    """Leave the group of processes."""
    from accelerate.state import AcceleratorState

    accelerator.end_training()
    # Otherwise a second run in this process could choose neither another precision nor another device.
    AcceleratorState._reset_state(reset_partial_state=True)


def synchronise_norms(network: nn.Module, settings: TrainConfig, accelerator: Accelerator) -> nn.Module:
    """Let BatchNorm take its statistics over all processes where it can, on GPUs; warn where they will be poor.

    Returns:
        The network, with every BatchNorm replaced by SyncBatchNorm of the same names and values, or as it was.

    Warns:
        TrainingWarning: fewer than 32 or more than 256 rows in BatchNorm's batch, or unsynchronised processes.
    """
    processes = accelerator.num_processes
    if processes > 1 and accelerator.device.type == "cuda":
        warn_of_batch_size(settings.batch_size)
        synchronised: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        return synchronised
    warn_of_batch_size(settings.batch_size // processes)
    if processes > 1:
        warnings.warn(
            f"BatchNorm cannot be synchronised on CPU: each of {processes} processes takes statistics of its own rows.",
            TrainingWarning,
            stacklevel=2,
        )
    return network


def agree(result: Result) -> Result:
    """Return the main process's result in all of them, so that all stop in the same epoch."""
    from accelerate.utils import broadcast_object_list

    agreed: list[Result] = broadcast_object_list([result])
    return agreed[0]
