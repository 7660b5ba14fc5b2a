"""Experiment 6: the gap between training and test accuracy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from normfold.models.study.harness import LR, VARIANTS, load_digits, make_mlp, measure, train
from normfold.models.study.plots import ERRORS, Lines, Series, draw
from normfold.models.study.result import Check, ExperimentResult, Table, estimate

COLUMNS = ("network", "training digits", "training accuracy", "test accuracy", "gap")

SIZES = (100, 200, 400, 800, 1259)
"""Numbers of training digits; the last is the whole split."""


def run(seeds: Sequence[int], steps: int = 300, sizes: Sequence[int] = SIZES) -> ExperimentResult:
    """Train on subsets of the training split.

    Args:
        seeds: one pair of networks, and one subset of the digits, for each seed and size.
        steps: training steps.
        sizes: numbers of training digits.
    """
    found = {
        (variant, size): np.array([train_and_measure(seed, batchnorm, size, steps) for seed in seeds])
        for variant, batchnorm in VARIANTS.items()
        for size in sizes
    }
    with_batchnorm, without = VARIANTS
    gaps = {key: values[:, 0] - values[:, 1] for key, values in found.items()}
    smallest, whole = sizes[0], sizes[-1]
    checks = (
        *(
            Check(
                f"BatchNorm narrows the gap between training and test accuracy, with {size} training digits.",
                "Ioffe & Szegedy 2015, arXiv:1502.03167, section 3.4; Luo et al. 2019, arXiv:1809.00846",
                "gap, without − with",
                tuple(gaps[without, size] - gaps[with_batchnorm, size]),
            )
            for size in (whole, smallest)
        ),
        Check(
            f"Networks with BatchNorm have the better test accuracy, with {whole} training digits.",
            "Ioffe & Szegedy 2015, arXiv:1502.03167, section 4.2",
            "test accuracy, with − without",
            tuple(found[with_batchnorm, whole][:, 1] - found[without, whole][:, 1]),
        ),
    )
    rows = tuple(
        (variant, size, estimate(values[:, 0]), estimate(values[:, 1]), estimate(gaps[variant, size]))
        for (variant, size), values in found.items()
    )
    return ExperimentResult(
        "generalisation",
        "Generalisation gap",
        f"The perceptrons on subsets of the training split, {steps} steps at learning rate {LR:g}; both accuracies are "
        "those in inference mode after training.",
        Table(COLUMNS, rows),
        ERRORS.format(len(seeds)),
        draw(
            [
                _panel("Test accuracy", "accuracy", {key: values[:, 1] for key, values in found.items()}, sizes),
                _panel("Training accuracy − test accuracy", "gap", gaps, sizes),
            ]
        ),
        checks,
    )


def train_and_measure(seed: int, batchnorm: bool, size: int, steps: int) -> tuple[float, float]:
    """Train one network; return training and test accuracy."""
    digits = load_digits().first(size, seed)
    network = make_mlp(seed, batchnorm)
    train(network, digits, seed, steps)
    return measure(network, digits.train_x, digits.train_y)[1], measure(network, digits.test_x, digits.test_y)[1]


def _panel(title: str, label: str, values: dict[tuple[str, int], np.ndarray], sizes: Sequence[int]) -> Lines:
    series = [Series(variant, np.transpose([values[variant, size] for size in sizes])) for variant in VARIANTS]
    return Lines(title, "training digits", label, sizes, series, log_x=True)
