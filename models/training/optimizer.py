"""The optimizer and its learning rate."""

from __future__ import annotations

import math

import torch
from torch import nn

from normfold.models.training.config import TrainConfig

START_DIVISOR = 25.0
"""Peak learning rate over the first one."""

END_DIVISOR = 1e4
"""First learning rate over the last one."""


def make_optimizer(network: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Return AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101) or SGD with Nesterov momentum.

    Weight decay spares normalisation's scale and shift, and biases. Decaying a scale pulls the gain of a channel to 0;
    decaying the weights before a BatchNorm only changes the effective learning rate (van Laarhoven 2017,
    arXiv:1706.05350), since normalisation takes their length out again.
    """
    decayed, spared = split_parameters(network)
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": spared, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if config.optimizer == "sgd":
        momentum = config.sgd_momentum
        return torch.optim.SGD(groups, lr=config.peak_lr, momentum=momentum, nesterov=momentum > 0)
    return torch.optim.AdamW(groups, lr=config.peak_lr)


def split_parameters(network: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Return (decayed, spared) trainable parameters: those of one axis, scale, shift and bias, are spared."""
    trainable = [parameter for parameter in network.parameters() if parameter.requires_grad]
    decayed = [parameter for parameter in trainable if parameter.ndim > 1]
    spared = [parameter for parameter in trainable if parameter.ndim <= 1]
    return decayed, spared


def one_cycle(step: int, steps: int, peak: float, warmup_fraction: float) -> float:
    """Learning rate of a step: up to the peak, then down to nearly 0, both along half a cosine.

    A function of the step alone, so that a resumed run has no state to restore. With w = warmup_fraction * steps - 1:
        peak / 25   ->  peak              for step in [0, w]
        peak        ->  peak / 250000     for step in [w, steps - 1]

    Source: Smith & Topin 2018, arXiv:1708.07120; the same as torch's OneCycleLR with cycle_momentum=False.

    Args:
        step: from 0.
        steps: in the whole run.
        peak: the largest learning rate.
        warmup_fraction: share of the steps until the peak.
    """
    first = peak / START_DIVISOR
    summit = warmup_fraction * steps - 1
    if step < summit:
        return _cosine(first, peak, step / summit)
    return _cosine(peak, first / END_DIVISOR, (step - summit) / (steps - 1 - summit))


def _cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * progress))
