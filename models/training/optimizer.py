"""The optimizer."""

from __future__ import annotations

import torch
from torch import nn

from normfold.models.training.config import TrainConfig


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
