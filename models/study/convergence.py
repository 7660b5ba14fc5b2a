"""Experiment 2: speed of convergence, at the same learning rate and at the best of several."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from normfold.models.study.harness import VARIANTS, load_digits, make_mlp, measure, train
from normfold.models.study.plots import ERRORS, Lines, Series, draw
from normfold.models.study.result import Check, ExperimentResult, Table, estimate

COLUMNS = ("network", "learning rate", "steps to the accuracy", "training loss at the end", "test accuracy at the end")

RATES = (0.01, 0.03, 0.1, 0.3)
SAME = 0.03
"""The common learning rate: both variants train with it, and it is the best of neither."""
GOAL = 0.95
"""Training accuracy to be reached."""
EVERY = 5
"""Steps between two measurements."""

Curves = npt.NDArray[np.float64]


def run(seeds: Sequence[int], steps: int = 300, rates: Sequence[float] = RATES) -> ExperimentResult:
    """Train at several learning rates, and measure loss and accuracy every few steps.

    Args:
        seeds: one pair of networks for each seed and rate.
        steps: training steps.
        rates: learning rates, with SAME among them.
    """
    curves = {
        (variant, rate): np.array([train_and_measure(seed, batchnorm, rate, steps) for seed in seeds])
        for variant, batchnorm in VARIANTS.items()
        for rate in rates
    }
    reached = {key: [steps_to_goal(curve[:, 1], steps) for curve in found] for key, found in curves.items()}
    with_batchnorm, without = VARIANTS
    best = {variant: min(rates, key=lambda rate: estimate(reached[variant, rate]).mean) for variant in VARIANTS}
    checks = (
        Check(
            f"At the same learning rate ({SAME:g}), a network with BatchNorm needs fewer steps.",
            "Ioffe & Szegedy 2015, arXiv:1502.03167, section 4.2 (BN-Baseline)",
            f"steps to training accuracy {GOAL:g}, without − with",
            tuple(np.subtract(reached[without, SAME], reached[with_batchnorm, SAME])),
        ),
        Check(
            "At the learning rate that is best for each, a network with BatchNorm needs fewer steps.",
            "Ioffe & Szegedy 2015, arXiv:1502.03167, section 4.2 (BN-x5, BN-x30)",
            f"steps to training accuracy {GOAL:g}, without ({best[without]:g}) − with ({best[with_batchnorm]:g})",
            tuple(np.subtract(reached[without, best[without]], reached[with_batchnorm, best[with_batchnorm]])),
        ),
    )
    rows = tuple(
        (variant, f"{rate:g}", estimate(reached[variant, rate]), estimate(found[:, -1, 0]), estimate(found[:, -1, 2]))
        for (variant, rate), found in curves.items()
    )
    return ExperimentResult(
        "convergence",
        "Convergence",
        f"The perceptrons, {steps} steps at each of {len(rates)} learning rates. Loss and accuracy are measured in "
        f"inference mode every {EVERY} steps. A network that never reaches a training accuracy of {GOAL:g} counts with "
        f"all {steps} steps.",
        Table(COLUMNS, rows),
        "Each variant at the common learning rate and at its best one. " + ERRORS.format(len(seeds)),
        _draw(curves, best, steps),
        checks,
    )


def train_and_measure(seed: int, batchnorm: bool, lr: float, steps: int) -> Curves:
    """Train one network; return training loss, training accuracy and test accuracy: (measurements, 3)."""
    digits = load_digits()
    network = make_mlp(seed, batchnorm)
    measured: list[tuple[float, float, float]] = []

    def observe(_step: int) -> None:
        loss, accuracy = measure(network, digits.train_x, digits.train_y)
        measured.append((loss, accuracy, measure(network, digits.test_x, digits.test_y)[1]))

    train(network, digits, seed, steps, lr=lr, every=EVERY, observe=observe)
    while len(measured) < len(measured_steps(steps)):  # it diverged
        measured.append(measured[-1])
    return np.array(measured)


def measured_steps(steps: int) -> list[int]:
    """Return the numbers of steps after which a measurement is made."""
    return [*range(0, steps, EVERY), steps]


def steps_to_goal(accuracy: Curves, steps: int) -> int:
    """Return the first measured step at which GOAL is reached, or `steps`."""
    reached = np.flatnonzero(accuracy >= GOAL)
    return measured_steps(steps)[reached[0]] if len(reached) else steps


def _draw(curves: dict[tuple[str, float], Curves], best: dict[str, float], steps: int) -> bytes:
    chosen = [(variant, rate) for variant in VARIANTS for rate in dict.fromkeys((SAME, best[variant]))]
    panels = []
    for index, label in enumerate(("training loss (nats)", "training accuracy", "test accuracy")):
        series = [Series(f"{variant}, {rate:g}", curves[variant, rate][:, :, index]) for variant, rate in chosen]
        panels.append(Lines(label.capitalize(), "step", label, measured_steps(steps), series, log_y=index == 0))
    return draw(panels)
