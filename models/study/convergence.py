"""Experiment 2: how fast training converges, at one learning rate and at the best of several."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from normfold.models.study.finding import Check, Finding, Table, estimate
from normfold.models.study.harness import ARMS, load_digits, make_mlp, measure, train
from normfold.models.study.plots import ERRORS, Lines, Series, draw

COLUMNS = ("network", "learning rate", "steps to the accuracy", "training loss at the end", "test accuracy at the end")

RATES = (0.01, 0.03, 0.1, 0.3)
SAME = 0.03
"""The one rate at which both are compared: neither's best, and sure to train both."""
GOAL = 0.95
"""Training accuracy that is to be reached."""
EVERY = 5

Curves = npt.NDArray[np.float64]


def run(seeds: Sequence[int], steps: int = 300, rates: Sequence[float] = RATES) -> Finding:
    """Train at several learning rates, and look at loss and accuracy every few steps.

    Args:
        seeds: a pair of networks each, for each rate.
        steps: of training.
        rates: learning rates; SAME must be among them.
    """
    curves = {
        (arm, rate): np.array([follow(seed, norm, rate, steps) for seed in seeds])
        for arm, norm in ARMS.items()
        for rate in rates
    }
    reached = {key: [steps_to_goal(curve[:, 1], steps) for curve in found] for key, found in curves.items()}
    with_norm, without = ARMS
    best = {arm: min(rates, key=lambda rate: estimate(reached[arm, rate]).mean) for arm in ARMS}
    checks = (
        Check(
            f"At the same learning rate ({SAME:g}), a network with BatchNorm needs fewer steps.",
            "Ioffe & Szegedy 2015, arXiv:1502.03167, section 4.2 (BN-Baseline)",
            f"steps to training accuracy {GOAL:g}, without − with",
            tuple(np.subtract(reached[without, SAME], reached[with_norm, SAME])),
        ),
        Check(
            "At the learning rate that is best for each, a network with BatchNorm needs fewer steps.",
            "Ioffe & Szegedy 2015, arXiv:1502.03167, section 4.2 (BN-x5, BN-x30)",
            f"steps to training accuracy {GOAL:g}, without ({best[without]:g}) − with ({best[with_norm]:g})",
            tuple(np.subtract(reached[without, best[without]], reached[with_norm, best[with_norm]])),
        ),
    )
    rows = tuple(
        (arm, f"{rate:g}", estimate(reached[arm, rate]), estimate(found[:, -1, 0]), estimate(found[:, -1, 2]))
        for (arm, rate), found in curves.items()
    )
    return Finding(
        "convergence",
        "Convergence",
        f"The perceptrons again, {steps} steps at each of {len(rates)} learning rates. Loss and accuracy are taken in "
        f"inference mode every {EVERY} steps. A network that never reaches a training accuracy of {GOAL:g} is counted "
        f"with all {steps} steps.",
        Table(COLUMNS, rows),
        "Each network at the common rate and at its own best. " + ERRORS.format(len(seeds)),
        _draw(curves, best, steps),
        checks,
    )


def follow(seed: int, norm: bool, lr: float, steps: int) -> Curves:
    """Train one network; return (looks, 3): training loss, training accuracy, test accuracy."""
    digits = load_digits()
    network = make_mlp(seed, norm)
    seen: list[tuple[float, float, float]] = []

    def look(_step: int) -> None:
        loss, accuracy = measure(network, digits.train_x, digits.train_y)
        seen.append((loss, accuracy, measure(network, digits.test_x, digits.test_y)[1]))

    train(network, digits, seed, steps, lr=lr, every=EVERY, look=look)
    while len(seen) < len(looks(steps)):  # it diverged
        seen.append(seen[-1])
    return np.array(seen)


def looks(steps: int) -> list[int]:
    """Return the steps after which is looked."""
    return [*range(0, steps, EVERY), steps]


def steps_to_goal(accuracy: Curves, steps: int) -> int:
    """Return the first step at which GOAL is reached, or the last."""
    reached = np.flatnonzero(accuracy >= GOAL)
    return looks(steps)[reached[0]] if len(reached) else steps


def _draw(curves: dict[tuple[str, float], Curves], best: dict[str, float], steps: int) -> bytes:
    chosen = [(arm, rate) for arm in ARMS for rate in dict.fromkeys((SAME, best[arm]))]
    panels = []
    for index, label in enumerate(("training loss (nats)", "training accuracy", "test accuracy")):
        series = [Series(f"{arm}, {rate:g}", curves[arm, rate][:, :, index]) for arm, rate in chosen]
        panels.append(Lines(label.capitalize(), "step", label, looks(steps), series, log_y=index == 0))
    return draw(panels)
