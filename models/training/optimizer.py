"""The optimizer and its learning rate schedule."""

from __future__ import annotations

import math

import torch
from torch import nn

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
        config: optimizer, learning rate, momentum and weight decay.
    """
    decayed, undecayed = split_parameters(network)
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": undecayed, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if config.optimizer == "sgd":
        momentum = config.sgd_momentum
        return torch.optim.SGD(groups, lr=config.peak_lr, momentum=momentum, nesterov=momentum > 0)
    return torch.optim.AdamW(groups, lr=config.peak_lr)


def split_parameters(network: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Return the trainable parameters with weight decay, and those without: of one axis, as scale, shift and bias."""
    trainable = [parameter for parameter in network.parameters() if parameter.requires_grad]
    decayed = [parameter for parameter in trainable if parameter.ndim > 1]
    undecayed = [parameter for parameter in trainable if parameter.ndim <= 1]
    return decayed, undecayed


def one_cycle(step: int, steps: int, peak: float, warmup_fraction: float) -> float:
    """Return the learning rate of a step: a rise to the peak, then a fall to nearly 0, each along half a cosine.

    It depends on the step only, so that a resumed run needs no state of it. With w = warmup_fraction * steps - 1:
        peak / 25   ->  peak              for step in [0, w]
        peak        ->  peak / 250000     for step in [w, steps - 1]

    Source: Smith & Topin 2018, arXiv:1708.07120; the same as torch's OneCycleLR with cycle_momentum=False.

    Args:
        step: from 0.
        steps: number of steps of the whole run.
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
