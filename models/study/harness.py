"""Networks, data and training of all experiments: Normfold's own networks on the digits, with and without BatchNorm.

The seed determines weights, order of rows and dropout. The two networks of a seed have the same initial weights and the
same batches, so that BatchNorm causes their difference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import count
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from normfold.models.architectures.blocks import ConvBatchNorm, LinearBatchNorm
from normfold.models.architectures.convnet import ConvNet, convnet
from normfold.models.architectures.mlp import Mlp, mlp
from normfold.models.data.batches import epoch_batches, seed_everything
from normfold.models.data.data import DataConfig, load_dataset
from normfold.models.training.config import TrainConfig
from normfold.models.training.optimizer import make_optimizer

WIDTHS = (64, 64, 64, 64, 64)
"""Widths of the perceptron, which is deep enough for BatchNorm's effect on activations to accumulate."""

STAGES = (16, 32)
"""Channels of the convolutional network."""

BATCH_SIZE = 64
LR = 0.1

VARIANTS = {"with BatchNorm": True, "without": False}

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class Digits:
    """The digits as tensors: x (N, 1, 8, 8), float32, standardised by the training split; y (N,), int64."""

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor

    def first(self, rows: int, seed: int) -> Digits:
        """Return the digits with a random subset of the training rows."""
        chosen = torch.from_numpy(np.random.default_rng(seed).permutation(len(self.train_y))[:rows])
        return Digits(self.train_x[chosen], self.train_y[chosen], self.test_x, self.test_y)


@cache
def load_digits() -> Digits:
    """Load and split the digits with the defaults of `normfold train`."""
    data = load_dataset(DataConfig())
    train, test = data.splits.train, data.splits.test
    return Digits(
        torch.from_numpy(data.tensors(train)),
        torch.from_numpy(data.y[train]),
        torch.from_numpy(data.tensors(test)),
        torch.from_numpy(data.y[test]),
    )


def make_mlp(seed: int, batchnorm: bool, *, scale: float = 1.0, dropout: float = 0.0) -> Mlp:
    """Return a perceptron of WIDTHS for x (N, 1, 8, 8).

    Args:
        seed: of the weights.
        batchnorm: with BatchNorm; if false, the linear layers have a bias instead.
        scale: factor on the initial weights of the hidden layers.
        dropout: probability, after the last block.
    """
    seed_everything(seed, 0, 0)
    network = mlp((1, 8, 8), 10, widths=WIDTHS, dropout=dropout)
    with torch.no_grad():
        for block in blocks_of(network):
            weight_of(block).mul_(scale)
    return network if batchnorm else remove_batchnorms(network)


def make_convnet(seed: int, batchnorm: bool) -> ConvNet:
    """Return a convolutional network of STAGES for x (N, 1, 8, 8); without BatchNorm, its convolutions have a bias."""
    seed_everything(seed, 0, 0)
    network = convnet((1, 8, 8), 10, widths=STAGES, blocks_per_stage=1)
    return network if batchnorm else remove_batchnorms(network)


def remove_batchnorms(network: Network) -> Network:
    """Replace every BatchNorm of a network's blocks by a bias of 0 in the weight layer; the network is changed."""
    for block in blocks_of(network):
        block.norm = nn.Identity()
        block.weight_layer.bias = nn.Parameter(torch.zeros(len(weight_of(block))))
    return network


def blocks_of(network: nn.Module) -> list[ConvBatchNorm | LinearBatchNorm]:
    """Return the blocks of weight layer, BatchNorm and activation, in order."""
    return [module for module in network.modules() if isinstance(module, (ConvBatchNorm, LinearBatchNorm))]


def weight_of(block: ConvBatchNorm | LinearBatchNorm) -> Tensor:
    """Return the weights of a block's convolution or linear layer."""
    weight = block.weight_layer.weight
    assert isinstance(weight, Tensor)
    return weight


def batches(digits: Digits, batch_size: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield shuffled batches (x, y) endlessly, epoch after epoch."""
    for epoch in count(1):
        for rows in epoch_batches(len(digits.train_y), batch_size, seed=seed, epoch=epoch):
            chosen = torch.from_numpy(rows)
            yield digits.train_x[chosen], digits.train_y[chosen]


def train(
    network: nn.Module,
    digits: Digits,
    seed: int,
    steps: int,
    *,
    lr: float = LR,
    batch_size: int = BATCH_SIZE,
    every: int = 1,
    observe: Callable[[int], None] | None = None,
) -> None:
    """Train by plain stochastic gradient descent at a constant learning rate, and put the network in eval mode.

    Args:
        network: changed in place.
        digits: its training split is used.
        seed: of the order of rows and of dropout.
        steps: number of batches; training ends earlier if the loss is not finite.
        lr: learning rate.
        batch_size: rows per step.
        every: steps between two calls of `observe`.
        observe: called with the number of steps done, from 0 and at the end; it may change the network's mode.
    """
    config = TrainConfig(optimizer="sgd", lr=lr, sgd_momentum=0.0, weight_decay=0.0)
    optimizer = make_optimizer(network, config)
    seed_everything(seed, 1, 0)
    for step, (x, y) in zip(range(steps), batches(digits, batch_size, seed), strict=False):
        if observe is not None and step % every == 0:
            observe(step)
        network.train()
        loss = cross_entropy(network(x), y)
        if not torch.isfinite(loss):
            break
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    if observe is not None:
        observe(steps)
    network.eval()


def measure(network: nn.Module, x: Tensor, y: Tensor) -> tuple[float, float]:
    """Return loss and accuracy in eval mode; rows whose logits are not finite count as wrong."""
    network.eval()
    with torch.inference_mode():
        logits = network(x)  # (N, 10)
        correct = (logits.argmax(1) == y) & torch.isfinite(logits).all(1)
        return float(cross_entropy(logits, y)), float(correct.float().mean())
