"""The optimizer and its learning rate schedule."""

from __future__ import annotations

import math

import torch
from torch import nn

from normfold.models.fine_tuning.layer_decay import SCALE, parameter_groups
from normfold.models.training.config import TrainConfig

START_DIVISOR = 25.0
"""Peak learning rate divided by the first one."""

END_DIVISOR = 1e4
"""First learning rate divided by the last one."""


def make_optimizer(network: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Return AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101) or SGD with Nesterov momentum.

    BatchNorm's scale and shift, and biases, have no weight decay. Decaying a scale pulls the channel's gain to 0;
    decaying the weights before a BatchNorm only changes the effective learning rate, since BatchNorm's output does not
    depend on their norm (van Laarhoven 2017, arXiv:1706.05350).

    Args:
        network: its trainable parameters are optimised.
        config: optimizer, learning rate, layer decay, momentum and weight decay.
    """
    groups = parameter_groups(network, config.weight_decay, config.layer_decay)
    if config.optimizer == "sgd":
        momentum = config.sgd_momentum
        return torch.optim.SGD(groups, lr=config.peak_lr, momentum=momentum, nesterov=momentum > 0)
    return torch.optim.AdamW(groups, lr=config.peak_lr)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of a step, in each group by its `layer_decay`."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get(SCALE, 1.0)


def one_cycle(step: float, steps: float, peak: float, warmup_fraction: float) -> float:
    """Return the learning rate of a step: a rise to the peak, then a fall to nearly 0, each along half a cosine.

    It depends on the step only, so that a resumed run needs no state of it. With w = warmup_fraction * steps - 1:
        peak / 25   ->  peak              for step in [0, w]
        peak        ->  peak / 250000     for step in [w, steps - 1]

    Source: Smith & Topin 2018, arXiv:1708.07120; the same as torch's OneCycleLR with cycle_momentum=False.

    Args:
        step: from 0.
        steps: number of steps of the whole schedule.
        peak: largest learning rate.
        warmup_fraction: fraction of the steps before the peak.
    """
    first = peak / START_DIVISOR
    peak_step = warmup_fraction * steps - 1
    if step < peak_step:
        return _cosine(first, peak, step / peak_step)
    return _cosine(peak, first / END_DIVISOR, (step - peak_step) / (steps - 1 - peak_step))


def _cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * progress))
