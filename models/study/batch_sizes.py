"""Experiment 7: batches of 2 to 512 rows, and how far the running statistics are from precise ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from normfold.models.architectures.mlp import Mlp
from normfold.models.batchnorm.recalibrate import recalibrate
from normfold.models.study.finding import Check, Finding, Row, Table, estimate
from normfold.models.study.harness import LR, blocks_of, load_digits, make_mlp, measure, train, twin
from normfold.models.study.plots import ERRORS, Lines, Series, draw

COLUMNS = (
    "batch size",
    "accuracy with BatchNorm",
    "… with precise statistics",
    "accuracy without",
    "error of the running means, in standard deviations",
    "error of the running variances, relative",
)

SIZES = (2, 4, 8, 16, 32, 64, 128, 256, 512)
USUAL = 32
"""Batch size with which the smallest is compared."""


@dataclass(frozen=True)
class Trained:
    """What became of one network."""

    accuracy: float
    precise_accuracy: float
    mean_error: float
    variance_error: float


def run(seeds: Sequence[int], steps: int = 300, sizes: Sequence[int] = SIZES) -> Finding:
    """Train with batches of several sizes, each for as many steps.

    Args:
        seeds: a pair of networks each, for each size.
        steps: of training.
        sizes: ascending; USUAL must be among them.
    """
    trained = {size: [train_with_norm(seed, size, steps) for seed in seeds] for size in sizes}
    without = {size: [_accuracy_without(seed, size, steps) for seed in seeds] for size in sizes}
    accuracy = {size: [one.accuracy for one in trained[size]] for size in sizes}
    precise = {size: [one.precise_accuracy for one in trained[size]] for size in sizes}
    means = {size: [one.mean_error for one in trained[size]] for size in sizes}
    variances = {size: [one.variance_error for one in trained[size]] for size in sizes}
    smallest = sizes[0]
    loss = {size: np.subtract(without[size], accuracy[size]) for size in (smallest, USUAL)}
    checks = (
        Check(
            f"Small batches harm a network with BatchNorm: it loses more, against one without, with {smallest} rows "
            f"than with {USUAL}.",
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
            f"With batches of {smallest}, precise statistics serve better than the running ones.",
            "Wu & Johnson 2021, arXiv:2105.07576, section 3",
            "training accuracy, with precise − with running statistics",
            tuple(np.subtract(precise[smallest], accuracy[smallest])),
        ),
    )
    rows: tuple[Row, ...] = tuple(
        (size, *(estimate(of[size]) for of in (accuracy, precise, without, means, variances))) for size in sizes
    )
    return Finding(
        "batch-sizes",
        "Batch sizes",
        f"The perceptrons, {steps} steps at learning rate {LR:g} with batches of each size (so that small ones see "
        "fewer rows); training accuracy in inference mode. Precise statistics are those of the whole training split "
        "under the final weights, layer after layer; the running ones are compared with them over all channels.",
        Table(COLUMNS, rows),
        ERRORS.format(len(seeds)),
        _draw(
            sizes,
            {"with BatchNorm": accuracy, "with precise statistics": precise, "without": without},
            means,
            variances,
        ),
        checks,
    )


def train_with_norm(seed: int, size: int, steps: int) -> Trained:
    """Train one network with BatchNorm and compare its running statistics with precise ones."""
    digits = load_digits()
    network = make_mlp(seed, norm=True)
    train(network, digits, seed, steps, batch_size=size)
    exact = with_precise_statistics(network, digits.train_x)
    mean_error, variance_error = errors_of_statistics(network, exact)
    return Trained(
        measure(network, digits.train_x, digits.train_y)[1],
        measure(exact, digits.train_x, digits.train_y)[1],
        mean_error,
        variance_error,
    )


def with_precise_statistics(network: Mlp, x: torch.Tensor) -> Mlp:
    """Return a copy whose running statistics are those of x, taken anew under the weights as they are.

    The variance is divided by the rows less one, as in the running variance that torch keeps, so that the two differ by
    what training did and not by how they are defined. (What `recalibrate` sets, and an export takes, is divided by the
    rows.)

    Source: Wu & Johnson 2021, arXiv:2105.07576, section 3.2 (PreciseBN), here with a single batch of all rows.
    """
    exact = twin(network)
    recalibrate(exact, x)
    for norm in norms_of(exact):
        assert norm.running_var is not None
        norm.running_var *= len(x) / (len(x) - 1)
    return exact


def errors_of_statistics(network: Mlp, exact: Mlp) -> tuple[float, float]:
    """Return mean errors over all channels: of means, in exact standard deviations; of variances, as parts of them.

    Channels that hardly vary (a variance under 1e-8) are left out.
    """
    means, variances = [], []
    for norm, true in zip(norms_of(network), norms_of(exact), strict=True):
        assert norm.running_mean is not None
        assert norm.running_var is not None
        assert true.running_mean is not None
        assert true.running_var is not None
        alive = true.running_var > 1e-8
        means.append((norm.running_mean - true.running_mean).abs()[alive] / true.running_var[alive].sqrt())
        variances.append((norm.running_var - true.running_var).abs()[alive] / true.running_var[alive])
    return float(torch.cat(means).mean()), float(torch.cat(variances).mean())


def norms_of(network: nn.Module) -> list[nn.BatchNorm1d]:
    """Return a perceptron's BatchNorm layers, in order."""
    return [block.norm for block in blocks_of(network) if isinstance(block.norm, nn.BatchNorm1d)]


def _accuracy_without(seed: int, size: int, steps: int) -> float:
    digits = load_digits()
    network = make_mlp(seed, norm=False)
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
    right = [series("means, in standard deviations", means), series("variances, relative", variances)]
    return draw(
        [
            Lines("Training accuracy", "batch size", "accuracy", sizes, left, log_x=True),
            Lines("Running statistics", "batch size", "mean error", sizes, right, log_x=True, log_y=True),
        ]
    )
