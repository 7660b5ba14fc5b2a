"""The optimizer."""

from __future__ import annotations

import torch
from torch import nn

from normfold.models.fine_tuning.layer_decay import SCALE, parameter_groups
from normfold.models.training.config import TrainConfig


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
