"""The outputs of a regression in the units of the targets."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from normfold.contract.outputs.task import Target


class InUnits(nn.Module):
    """values = std * network(x) + mean, in eval mode.

    A network is trained on standardised targets. The affine is part of the exported graph, and not of the last layer's
    weights, since a network of the user's own need not end in a linear layer; and the checkpoint keeps the weights that
    training goes on from.

    Shapes:
        x (N, *input_shape) -> values (N, targets).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, targets: tuple[Target, ...]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor([target.mean for target in targets], dtype=torch.float32))
        self.register_buffer("std", torch.tensor([target.std for target in targets], dtype=torch.float32))
        self.train(network.training)

    def forward(self, x: Tensor) -> Tensor:
        values: Tensor = self.network(x) * self.std + self.mean  # (N, targets)
        return values
