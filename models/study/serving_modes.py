"""Experiment 8: accuracy of a network that serves in training mode."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy

import numpy as np
import torch
from torch import Tensor

from normfold.models.architectures.convnet import ConvNet
from normfold.models.study.harness import LR, STAGES, load_digits, make_convnet, train
from normfold.models.study.plots import ERRORS, Bars, Series, draw
from normfold.models.study.result import Check, ExperimentResult, Row, Table, estimate

COLUMNS = ("requests", "inference mode", "training mode", "inference mode, after training mode")

REPEATS = 10
"""Number of times that a client sends the same batch of one class."""

SOURCE = "Ioffe & Szegedy 2015, arXiv:1502.03167, section 3.1 (algorithm 2)"

Clients = list[list[Tensor]]
"""Row indices of each request, by client; each client has a server of its own."""


def run(seeds: Sequence[int], steps: int = 300) -> ExperimentResult:
    """Serve the test digits in both modes, in requests of several kinds.

    Args:
        seeds: one network for each seed.
        steps: training steps.
    """
    found = {kind: np.array([serve(seed, steps, split) for seed in seeds]) for kind, split in REQUESTS.items()}
    single, mixed, one_class = (found[kind] for kind in (SINGLE, MIXED, ONE_CLASS))
    checks = (
        Check(
            "A batch of 1 must be served in inference mode: training mode costs accuracy.",
            SOURCE,
            "accuracy on single digits, inference mode − training mode",
            tuple(single[:, 0] - single[:, 1]),
        ),
        Check(
            "In training mode, predictions depend on the other rows of the batch: batches of one class have a lower "
            "accuracy than mixed ones of similar size.",
            SOURCE,
            "accuracy in training mode, mixed batches − batches of one class",
            tuple(mixed[:, 1] - one_class[:, 1]),
        ),
        Check(
            "Serving in training mode also changes the running statistics, and lowers the accuracy of later "
            "predictions in inference mode.",
            SOURCE,
            "accuracy in inference mode, before − after serving batches of one class in training mode",
            tuple(one_class[:, 0] - one_class[:, 2]),
        ),
    )
    rows: tuple[Row, ...] = tuple(
        (kind, *(estimate(values[:, column]) for column in range(3))) for kind, values in found.items()
    )
    series = [
        Series(title, np.transpose([values[:, column] for values in found.values()]))
        for column, title in enumerate(COLUMNS[1:])
    ]
    return ExperimentResult(
        "serving-modes",
        "Training mode and inference mode at serving time",
        f"Convolutional networks with {' and '.join(map(str, STAGES))} channels and BatchNorm, {steps} steps at "
        f"learning rate {LR:g}, serve the test digits in requests of each kind: in inference mode; in training mode, "
        "which also changes the running statistics; and after that all digits in inference mode. A client of one class "
        f"sends its batch {REPEATS} times to a server of its own; means over the ten classes.",
        Table(COLUMNS, rows),
        ERRORS.format(len(seeds)),
        draw([Bars("Accuracy on the test digits", "accuracy", list(found), series)]),
        checks,
    )


def serve(seed: int, steps: int, split: Callable[[Tensor], Clients]) -> tuple[float, float, float]:
    """Train one network and serve each client.

    Args:
        seed: of the network.
        steps: training steps.
        split: from the test labels (N,) to the requests of each client.

    Returns:
        Accuracy in inference mode, accuracy in training mode, and after that the accuracy on all test digits in
        inference mode: means over clients.
    """
    digits = load_digits()
    network = make_convnet(seed, batchnorm=True)
    train(network, digits, seed, steps)
    everything = [torch.arange(len(digits.test_y))]
    found = []
    for requests in split(digits.test_y):
        served = deepcopy(network)
        before, during = _accuracy(network, requests), _accuracy(served.train(), requests)
        found.append((before, during, _accuracy(served.eval(), everything)))
    before, during, after = np.mean(found, axis=0).tolist()
    return before, during, after


def _accuracy(network: ConvNet, requests: list[Tensor]) -> float:
    """Return the accuracy over all requests, in the network's current mode."""
    digits = load_digits()
    with torch.no_grad():
        correct = [int((network(digits.test_x[rows]).argmax(1) == digits.test_y[rows]).sum()) for rows in requests]
    return sum(correct) / sum(map(len, requests))


def _shuffled(labels: Tensor, size: int) -> Clients:
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(labels)))
    return [list(torch.split(order, size))]


def _by_class(labels: Tensor) -> Clients:
    return [[torch.nonzero(labels == number)[:, 0]] * REPEATS for number in range(10)]


SINGLE, MIXED, ONE_CLASS = "single digits", "mixed, 36 digits", "one class, 36 digits"

REQUESTS: dict[str, Callable[[Tensor], Clients]] = {
    SINGLE: lambda labels: _shuffled(labels, 1),
    "mixed, 4 digits": lambda labels: _shuffled(labels, 4),
    MIXED: lambda labels: _shuffled(labels, 36),
    ONE_CLASS: _by_class,
}
