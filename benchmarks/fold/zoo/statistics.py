"""Random parameters and running statistics, as training leaves them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

MIN_VARIANCE = 0.05


@torch.no_grad()
def randomise(network: nn.Module, rows: Tensor) -> None:
    """Give every BatchNorm random parameters, and running statistics near those of a batch.

    Scales are 0.5 to 1.5, one in ten negative; shifts are normal, with standard deviation 0.2. Statistics are those of
    the batch, moved a little, since they are no batch's own after training. Weights that are all zero before training
    become normal: zero would hide what stands before them.

    Args:
        network: in eval mode, and so it stays.
        rows: the batch, (N, ...).
    """
    for parameter in network.parameters():
        if parameter.ndim > 1 and not parameter.any():
            parameter.normal_(std=0.02)
    norms = [
        module for module in network.modules() if isinstance(module, _BatchNorm) and module.running_mean is not None
    ]
    for norm in norms:
        if norm.affine:
            sign = torch.where(torch.rand_like(norm.weight) < 0.1, -1.0, 1.0)
            norm.weight.copy_(sign * (0.5 + torch.rand_like(norm.weight)))
            norm.bias.normal_(std=0.2)
    fit(network, norms, rows)
    for norm in norms:
        mean, variance = norm.running_mean, norm.running_var
        assert mean is not None
        assert variance is not None
        variance.clamp_(min=MIN_VARIANCE)
        mean.add_(0.05 * variance.sqrt() * torch.randn_like(mean))
        variance.mul_(0.9 + 0.2 * torch.rand_like(variance))


def fit(network: nn.Module, norms: list[_BatchNorm], rows: Tensor) -> None:
    """Set the running statistics to those of one batch."""
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    network(rows)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.eval()
        norm.momentum = momentum
