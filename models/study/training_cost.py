"""Experiment 9, its first half: what BatchNorm costs in training, in time and memory."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from normfold.models.study.harness import ARMS, BATCH_SIZE, LR, load_digits, make_convnet, make_mlp

NETWORKS: dict[str, Callable[[int, bool], nn.Module]] = {"perceptron": make_mlp, "convolutional": make_convnet}

STEPS_A_ROUND = 5


@dataclass(frozen=True)
class Cost:
    """Of one training step."""

    milliseconds: float
    """Median over the rounds."""
    saved_bytes: int
    """What forward keeps for backward, weights left out."""


def training_costs(kind: str, seed: int, rounds: int) -> dict[str, Cost]:
    """Return the cost of a training step of both arms, measured in turns.

    Args:
        kind: a name in NETWORKS.
        seed: of the weights.
        rounds: of STEPS_A_ROUND steps of each arm.
    """
    digits = load_digits()
    x, y = digits.train_x[:BATCH_SIZE], digits.train_y[:BATCH_SIZE]
    networks = {arm: NETWORKS[kind](seed, norm).train() for arm, norm in ARMS.items()}
    optimizers = {arm: torch.optim.SGD(network.parameters(), lr=LR) for arm, network in networks.items()}
    seconds: dict[str, list[float]] = {arm: [] for arm in ARMS}
    for _ in range(1 + rounds):
        for arm, network in networks.items():
            started = time.perf_counter()
            for _ in range(STEPS_A_ROUND):
                optimizers[arm].zero_grad()
                cross_entropy(network(x), y).backward()  # type: ignore[no-untyped-call]
                optimizers[arm].step()
            seconds[arm].append(time.perf_counter() - started)
    return {
        arm: Cost(1e3 * statistics.median(seconds[arm][1:]) / STEPS_A_ROUND, saved_bytes(network, x, y))  # 0 warms up
        for arm, network in networks.items()
    }


def saved_bytes(network: nn.Module, x: Tensor, y: Tensor) -> int:
    """Return how many bytes a forward pass keeps for the backward pass, each storage once, without parameters."""
    own = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place not in own:
            kept[place] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = cross_entropy(network(x), y)
    del loss
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
