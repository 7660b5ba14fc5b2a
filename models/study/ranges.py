"""Experiments 3 and 4: the ranges of learning rates and of initial weights with which a network trains."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from normfold.models.study.harness import LR, VARIANTS, load_digits, make_mlp, measure, train
from normfold.models.study.plots import ERRORS, Lines, Series, draw
from normfold.models.study.result import Check, ExperimentResult, Row, Table, estimate

RATE_COLUMNS = ("learning rate", "accuracy with BatchNorm", "accuracy without")
SCALE_COLUMNS = ("scale of the weights", "accuracy with BatchNorm", "accuracy without")

RATES = tuple(10 ** (half / 2) for half in range(-6, 5))
SCALES = tuple(10 ** (third / 3) for third in range(-6, 7))
TRAINED = 0.9
"""Training accuracy from which a network counts as trained."""

Accuracies = dict[str, list[list[float]]]
"""By variant: (seeds, points)."""


def run_rates(seeds: Sequence[int], steps: int = 300, rates: Sequence[float] = RATES) -> ExperimentResult:
    """Train at learning rates over several decades.

    Args:
        seeds: one pair of networks for each seed and rate.
        steps: training steps.
        rates: learning rates with a constant ratio.
    """
    found = {
        variant: [[_train(seed, batchnorm, steps, rate, 1.0) for rate in rates] for seed in seeds]
        for variant, batchnorm in VARIANTS.items()
    }
    check = Check(
        "BatchNorm allows much higher learning rates: more of them train the network.",
        "Ioffe & Szegedy 2015, arXiv:1502.03167, section 3.3; Bjorck et al. 2018, arXiv:1806.02375",
        f"width of the range with accuracy of {TRAINED:g} or more, in decades, with − without",
        _wider(found, rates),
    )
    highest = Check(
        "The highest learning rate that trains is higher with BatchNorm.",
        "Ioffe & Szegedy 2015, arXiv:1502.03167, section 3.3",
        "logarithm to base 10 of the highest rate that trains, with − without",
        _higher(found, rates),
    )
    return ExperimentResult(
        "learning-rates",
        "Learning rates that train",
        f"The perceptrons, {steps} steps at constant learning rates from {rates[0]:g} to {rates[-1]:g}; training "
        f"accuracy at the end, in inference mode. A network whose outputs are not finite has accuracy 0.",
        Table(RATE_COLUMNS, _rows(found, rates)),
        f"Dotted: an accuracy of {TRAINED:g}, from which a network counts as trained. " + ERRORS.format(len(seeds)),
        _draw("Training accuracy by learning rate", "learning rate", found, rates),
        (check, highest),
    )


def run_scales(seeds: Sequence[int], steps: int = 300, scales: Sequence[float] = SCALES) -> ExperimentResult:
    """Train from initial weights that are larger or smaller than those of He et al. 2015.

    Args:
        seeds: one pair of networks for each seed and scale.
        steps: training steps.
        scales: factors on the initial weights, with a constant ratio.
    """
    found = {
        variant: [[_train(seed, batchnorm, steps, LR, scale) for scale in scales] for seed in seeds]
        for variant, batchnorm in VARIANTS.items()
    }
    check = Check(
        "BatchNorm makes training less sensitive to the scale of the initial weights.",
        "Ioffe & Szegedy 2015, arXiv:1502.03167, sections 1 and 3.3: BN(Wu) = BN((aW)u)",
        f"width of the range with accuracy of {TRAINED:g} or more, in decades, with − without",
        _wider(found, scales),
    )
    return ExperimentResult(
        "initial-weights",
        "Scale of the initial weights",
        f"The perceptrons, {steps} steps at learning rate {LR:g}; the hidden layers’ initial weights are those of "
        f"He et al. 2015, times a factor from {scales[0]:g} to {scales[-1]:g}. Training accuracy at the end, in "
        "inference mode.",
        Table(SCALE_COLUMNS, _rows(found, scales)),
        f"Dotted: an accuracy of {TRAINED:g}, from which a network counts as trained. " + ERRORS.format(len(seeds)),
        _draw("Training accuracy by scale of the initial weights", "scale relative to He et al.", found, scales),
        (check,),
    )


def _train(seed: int, batchnorm: bool, steps: int, lr: float, scale: float) -> float:
    digits = load_digits()
    network = make_mlp(seed, batchnorm, scale=scale)
    train(network, digits, seed, steps, lr=lr)
    return measure(network, digits.train_x, digits.train_y)[1]


def _wider(found: Accuracies, points: Sequence[float]) -> tuple[float, ...]:
    """Return the difference in width of the range that trains, with − without BatchNorm, in decades, for each seed."""
    spacing = float(np.log10(points[1] / points[0]))
    with_batchnorm, without = ((np.array(found[variant]) >= TRAINED).sum(1) * spacing for variant in VARIANTS)
    return tuple((with_batchnorm - without).tolist())


def _higher(found: Accuracies, points: Sequence[float]) -> tuple[float, ...]:
    """Return the difference of the highest point that trains, with − without BatchNorm, in decades, or NaN."""
    logarithms = np.log10(points)
    trained = (np.where(np.array(found[variant]) >= TRAINED, logarithms, -np.inf).max(1) for variant in VARIANTS)
    with_batchnorm, without = (np.where(np.isfinite(highest), highest, np.nan) for highest in trained)
    return tuple((with_batchnorm - without).tolist())


def _rows(found: Accuracies, points: Sequence[float]) -> tuple[Row, ...]:
    return tuple(
        (f"{point:.3g}", *(estimate([row[index] for row in found[variant]]) for variant in VARIANTS))
        for index, point in enumerate(points)
    )


def _draw(title: str, label: str, found: Accuracies, points: Sequence[float]) -> bytes:
    series = [Series(variant, found[variant]) for variant in VARIANTS]
    return draw([Lines(title, label, "training accuracy", points, series, log_x=True, mark=TRAINED)])
