"""Experiment 7: batches of 2 to 512 rows, and the error of the running statistics."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from normfold.models.architectures.mlp import Mlp
from normfold.models.statistics.recalibrate import recalibrate
from normfold.models.study.harness import LR, blocks_of, load_digits, make_mlp, measure, train
from normfold.models.study.plots import ERRORS, Lines, Series, draw
from normfold.models.study.result import Check, ExperimentResult, Row, Table, estimate

COLUMNS = (
    "batch size",
    "accuracy with BatchNorm",
    "… with recalibrated statistics",
    "accuracy without BatchNorm",
    "error of the running means, in standard deviations",
    "relative error of the running variances",
)

SIZES = (2, 4, 8, 16, 32, 64, 128, 256, 512)
USUAL = 32
"""Batch size that the smallest is compared with."""


@dataclass(frozen=True)
class Trained:
    """Measurements of one trained network."""

    accuracy: float
    recalibrated_accuracy: float
    mean_error: float
    """Error of the running means, in standard deviations."""
    variance_error: float
    """Relative error of the running variances."""


def run(seeds: Sequence[int], steps: int = 300, sizes: Sequence[int] = SIZES) -> ExperimentResult:
    """Train with batches of several sizes, for the same number of steps.

    Args:
        seeds: one pair of networks for each seed and size.
        steps: training steps.
        sizes: batch sizes in ascending order, with USUAL among them.
    """
    trained = {size: [train_with_batchnorm(seed, size, steps) for seed in seeds] for size in sizes}
    without = {size: [_accuracy_without(seed, size, steps) for seed in seeds] for size in sizes}
    accuracy = {size: [one.accuracy for one in trained[size]] for size in sizes}
    recalibrated = {size: [one.recalibrated_accuracy for one in trained[size]] for size in sizes}
    means = {size: [one.mean_error for one in trained[size]] for size in sizes}
    variances = {size: [one.variance_error for one in trained[size]] for size in sizes}
    smallest = sizes[0]
    loss = {size: np.subtract(without[size], accuracy[size]) for size in (smallest, USUAL)}
    checks = (
        Check(
            f"Small batches harm a network with BatchNorm: compared with one without, it loses more accuracy with "
            f"{smallest} rows than with {USUAL}.",
            "Wu & He 2018, arXiv:1803.08494, section 1 (figure 1)",
            f"training accuracy, without − with: at {smallest} rows − at {USUAL}",
            tuple(loss[smallest] - loss[USUAL]),
        ),
        Check(
            f"Running statistics are less exact with batches of {smallest} than of {USUAL}.",
            "Ioffe 2017, arXiv:1702.03275, section 1",
            f"error of the running means at {smallest} − at {USUAL}",
            tuple(np.subtract(means[smallest], means[USUAL])),
        ),
        Check(
            f"With batches of {smallest}, recalibrated statistics give a better accuracy than the running ones.",
            "Wu & Johnson 2021, arXiv:2105.07576, section 3",
            "training accuracy, with recalibrated − with running statistics",
            tuple(np.subtract(recalibrated[smallest], accuracy[smallest])),
        ),
    )
    rows: tuple[Row, ...] = tuple(
        (size, *(estimate(of[size]) for of in (accuracy, recalibrated, without, means, variances))) for size in sizes
    )
    return ExperimentResult(
        "batch-sizes",
        "Batch sizes",
        f"The perceptrons, {steps} steps at learning rate {LR:g} with batches of each size (networks with small "
        "batches are trained on fewer rows); training accuracy in inference mode. Recalibrated statistics are those of "
        "the whole training split with the final weights, layer by layer; the running statistics are compared with "
        "them over all channels.",
        Table(COLUMNS, rows),
        ERRORS.format(len(seeds)),
        _draw(
            sizes,
            {"with BatchNorm": accuracy, "with recalibrated statistics": recalibrated, "without": without},
            means,
            variances,
        ),
        checks,
    )


def train_with_batchnorm(seed: int, size: int, steps: int) -> Trained:
    """Train a network with BatchNorm, and compare its running statistics with recalibrated ones."""
    digits = load_digits()
    network = make_mlp(seed, batchnorm=True)
    train(network, digits, seed, steps, batch_size=size)
    exact = recalibrated_copy(network, digits.train_x)
    mean_error, variance_error = errors_of_statistics(network, exact)
    return Trained(
        measure(network, digits.train_x, digits.train_y)[1],
        measure(exact, digits.train_x, digits.train_y)[1],
        mean_error,
        variance_error,
    )


def recalibrated_copy(network: Mlp, x: torch.Tensor) -> Mlp:
    """Return a copy of a network whose running statistics are recalibrated over x.

    The variance is unbiased (divided by the rows - 1), as torch's running variance is, so that the two have the same
    definition. (`recalibrate`, as in an export, sets the biased variance.)

    Source: Wu & Johnson 2021, arXiv:2105.07576, section 3.2 (PreciseBN), here with a single batch of all rows.

    Args:
        network: trained; it is not changed.
        x: the training rows, (N, 1, 8, 8).
    """
    exact = copy.deepcopy(network)
    recalibrate(exact, x)
    for layer in batchnorms_of(exact):
        assert layer.running_var is not None
        layer.running_var *= len(x) / (len(x) - 1)
    return exact


def errors_of_statistics(network: Mlp, exact: Mlp) -> tuple[float, float]:
    """Return the mean errors of running means, in exact standard deviations, and of running variances, relative.

    Channels with an exact variance of at most 1e-8 are left out.
    """
    means, variances = [], []
    for layer, true in zip(batchnorms_of(network), batchnorms_of(exact), strict=True):
        assert layer.running_mean is not None
        assert layer.running_var is not None
        assert true.running_mean is not None
        assert true.running_var is not None
        varies = true.running_var > 1e-8
        means.append((layer.running_mean - true.running_mean).abs()[varies] / true.running_var[varies].sqrt())
        variances.append((layer.running_var - true.running_var).abs()[varies] / true.running_var[varies])
    return float(torch.cat(means).mean()), float(torch.cat(variances).mean())


def batchnorms_of(network: nn.Module) -> list[nn.BatchNorm1d]:
    """Return a perceptron's BatchNorm layers, in order."""
    return [block.norm for block in blocks_of(network) if isinstance(block.norm, nn.BatchNorm1d)]


def _accuracy_without(seed: int, size: int, steps: int) -> float:
    digits = load_digits()
    network = make_mlp(seed, batchnorm=False)
    train(network, digits, seed, steps, batch_size=size)
    return measure(network, digits.train_x, digits.train_y)[1]


def _draw(
    sizes: Sequence[int],
    accuracies: dict[str, dict[int, list[float]]],
    means: dict[int, list[float]],
    variances: dict[int, list[float]],
) -> bytes:
    def series(label: str, of: dict[int, list[float]]) -> Series:
        return Series(label, np.transpose([of[size] for size in sizes]))

    left = [series(label, of) for label, of in accuracies.items()]
    right = [series("means, in standard deviations", means), series("variances, relative error", variances)]
    return draw(
        [
            Lines("Training accuracy", "batch size", "accuracy", sizes, left, log_x=True),
            Lines("Running statistics", "batch size", "mean error", sizes, right, log_x=True, log_y=True),
        ]
    )
