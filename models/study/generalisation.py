"""Experiment 6: the gap between training and test accuracy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from normfold.models.study.finding import Check, Finding, Table, estimate
from normfold.models.study.harness import ARMS, LR, load_digits, make_mlp, measure, train
from normfold.models.study.plots import ERRORS, Lines, Series, draw

COLUMNS = ("network", "training digits", "training accuracy", "test accuracy", "gap")

SIZES = (100, 200, 400, 800, 1259)
"""Training digits; the last is the whole split."""


def run(seeds: Sequence[int], steps: int = 300, sizes: Sequence[int] = SIZES) -> Finding:
    """Train on parts of the training split.

    Args:
        seeds: a pair of networks each, for each size; also of the digits that are trained on.
        steps: of training.
        sizes: training digits.
    """
    found = {
        (arm, size): np.array([follow(seed, norm, size, steps) for seed in seeds])
        for arm, norm in ARMS.items()
        for size in sizes
    }
    with_norm, without = ARMS
    gaps = {key: values[:, 0] - values[:, 1] for key, values in found.items()}
    fewest, whole = sizes[0], sizes[-1]
    checks = (
        *(
            Check(
                f"BatchNorm narrows the gap between training and test accuracy, with {size} training digits.",
                "Ioffe & Szegedy 2015, arXiv:1502.03167, section 3.4; Luo et al. 2019, arXiv:1809.00846",
                "gap, without − with",
                tuple(gaps[without, size] - gaps[with_norm, size]),
            )
            for size in (whole, fewest)
        ),
        Check(
            f"Networks with BatchNorm have the better test accuracy, with {whole} training digits.",
            "Ioffe & Szegedy 2015, arXiv:1502.03167, section 4.2",
            "test accuracy, with − without",
            tuple(found[with_norm, whole][:, 1] - found[without, whole][:, 1]),
        ),
    )
    rows = tuple(
        (arm, size, estimate(values[:, 0]), estimate(values[:, 1]), estimate(gaps[arm, size]))
        for (arm, size), values in found.items()
    )
    return Finding(
        "generalisation",
        "Generalisation gap",
        f"The perceptrons on parts of the training split, {steps} steps at learning rate {LR:g}; both accuracies in "
        "inference mode after training.",
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


def follow(seed: int, norm: bool, size: int, steps: int) -> tuple[float, float]:
    """Train one network; return training and test accuracy."""
    digits = load_digits().first(size, seed)
    network = make_mlp(seed, norm)
    train(network, digits, seed, steps)
    return measure(network, digits.train_x, digits.train_y)[1], measure(network, digits.test_x, digits.test_y)[1]


def _panel(title: str, label: str, values: dict[tuple[str, int], np.ndarray], sizes: Sequence[int]) -> Lines:
    series = [Series(arm, np.transpose([values[arm, size] for size in sizes])) for arm in ARMS]
    return Lines(title, "training digits", label, sizes, series, log_x=True)
