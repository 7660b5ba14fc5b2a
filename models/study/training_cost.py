"""Experiment 9, training: cost of BatchNorm in time and memory."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from normfold.models.study.harness import BATCH_SIZE, LR, VARIANTS, load_digits, make_convnet, make_mlp

NETWORKS: dict[str, Callable[[int, bool], nn.Module]] = {"perceptron": make_mlp, "convolutional": make_convnet}

STEPS_PER_ROUND = 5


@dataclass(frozen=True)
class TrainingCost:
    """Cost of one training step."""

    milliseconds: float
    """Median over the rounds."""
    saved_bytes: int
    """Size of the tensors that the forward pass saves for the backward pass, without parameters."""


def training_costs(kind: str, seed: int, rounds: int) -> dict[str, TrainingCost]:
    """Return the cost of a training step of both variants, measured by turns.

    Args:
        kind: a key of NETWORKS.
        seed: of the weights.
        rounds: number of rounds, each with STEPS_PER_ROUND steps of each variant.
    """
    digits = load_digits()
    x, y = digits.train_x[:BATCH_SIZE], digits.train_y[:BATCH_SIZE]
    networks = {variant: NETWORKS[kind](seed, batchnorm).train() for variant, batchnorm in VARIANTS.items()}
    optimizers = {variant: torch.optim.SGD(network.parameters(), lr=LR) for variant, network in networks.items()}
    seconds: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    for _ in range(1 + rounds):
        for variant, network in networks.items():
            started = time.perf_counter()
            for _ in range(STEPS_PER_ROUND):
                optimizers[variant].zero_grad()
                cross_entropy(network(x), y).backward()  # type: ignore[no-untyped-call]
                optimizers[variant].step()
            seconds[variant].append(time.perf_counter() - started)
    return {
        # The first round warms up.
        variant: TrainingCost(
            1e3 * statistics.median(seconds[variant][1:]) / STEPS_PER_ROUND, saved_bytes(network, x, y)
        )
        for variant, network in networks.items()
    }


def saved_bytes(network: nn.Module, x: Tensor, y: Tensor) -> int:
    """Return the bytes that a forward pass saves for the backward pass: each storage once, without parameters.

    Args:
        network: in train mode.
        x: (B, 1, 8, 8).
        y: (B,), int64.
    """
    parameters = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    saved: dict[int, Tensor] = {}

    def save(tensor: Tensor) -> Tensor:
        address = tensor.untyped_storage().data_ptr()
        if address not in parameters:
            saved[address] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        loss = cross_entropy(network(x), y)
    del loss
    return sum(tensor.untyped_storage().nbytes() for tensor in saved.values())
