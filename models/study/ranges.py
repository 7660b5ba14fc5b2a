"""Experiments 3 and 4: the ranges of learning rates and of initial weights from which a network trains."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from normfold.models.study.finding import Check, Finding, Row, Table, estimate
from normfold.models.study.harness import ARMS, LR, load_digits, make_mlp, measure, train
from normfold.models.study.plots import ERRORS, Lines, Series, draw

RATE_COLUMNS = ("learning rate", "accuracy with BatchNorm", "accuracy without")
SCALE_COLUMNS = ("scale of the weights", "accuracy with BatchNorm", "accuracy without")

RATES = tuple(10 ** (half / 2) for half in range(-6, 5))
SCALES = tuple(10 ** (third / 3) for third in range(-6, 7))
TRAINED = 0.9
"""Training accuracy from which a network counts as trained."""

Accuracies = dict[str, list[list[float]]]
"""By arm: (seeds, points)."""


def run_rates(seeds: Sequence[int], steps: int = 300, rates: Sequence[float] = RATES) -> Finding:
    """Train at learning rates over many decades.

    Args:
        seeds: a pair of networks each, for each rate.
        steps: of training.
        rates: equally spaced by logarithm.
    """
    found = {
        arm: [[_train(seed, norm, steps, rate, 1.0) for rate in rates] for seed in seeds] for arm, norm in ARMS.items()
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
    return Finding(
        "learning-rates",
        "Learning rates that train",
        f"The perceptrons, {steps} steps at constant learning rates from {rates[0]:g} to {rates[-1]:g}; training "
        f"accuracy at the end, in inference mode. A network that gives no numbers has accuracy 0.",
        Table(RATE_COLUMNS, _rows(found, rates)),
        f"Dotted: an accuracy of {TRAINED:g}, from which a network counts as trained. " + ERRORS.format(len(seeds)),
        _draw("Training accuracy by learning rate", "learning rate", found, rates),
        (check, highest),
    )


def run_scales(seeds: Sequence[int], steps: int = 300, scales: Sequence[float] = SCALES) -> Finding:
    """Train from weights that are larger or smaller than He's.

    Args:
        seeds: a pair of networks each, for each scale.
        steps: of training.
        scales: factors, equally spaced by logarithm.
    """
    found = {
        arm: [[_train(seed, norm, steps, LR, scale) for scale in scales] for seed in seeds]
        for arm, norm in ARMS.items()
    }
    check = Check(
        "BatchNorm makes training less sensitive to the scale of the initial weights.",
        "Ioffe & Szegedy 2015, arXiv:1502.03167, sections 1 and 3.3: BN(Wu) = BN((aW)u)",
        f"width of the range with accuracy of {TRAINED:g} or more, in decades, with − without",
        _wider(found, scales),
    )
    return Finding(
        "initial-weights",
        "Scale of the initial weights",
        f"The perceptrons, {steps} steps at learning rate {LR:g}; the hidden layers’ weights start as He’s, times a "
        f"factor from {scales[0]:g} to {scales[-1]:g}. Training accuracy at the end, in inference mode.",
        Table(SCALE_COLUMNS, _rows(found, scales)),
        f"Dotted: an accuracy of {TRAINED:g}, from which a network counts as trained. " + ERRORS.format(len(seeds)),
        _draw("Training accuracy by scale of the initial weights", "scale, 1 is He’s", found, scales),
        (check,),
    )


def _train(seed: int, norm: bool, steps: int, lr: float, scale: float) -> float:
    digits = load_digits()
    network = make_mlp(seed, norm, scale=scale)
    train(network, digits, seed, steps, lr=lr)
    return measure(network, digits.train_x, digits.train_y)[1]


def _wider(found: Accuracies, points: Sequence[float]) -> tuple[float, ...]:
    """Return by how many decades the range that trains is wider with BatchNorm, for each seed."""
    spacing = float(np.log10(points[1] / points[0]))
    with_norm, without = ((np.array(found[arm]) >= TRAINED).sum(1) * spacing for arm in ARMS)
    return tuple((with_norm - without).tolist())


def _higher(found: Accuracies, points: Sequence[float]) -> tuple[float, ...]:
    """Return by how many decades the highest point that trains is higher with BatchNorm; NaN where none trains."""
    logarithms = np.log10(points)
    trained = (np.where(np.array(found[arm]) >= TRAINED, logarithms, -np.inf).max(1) for arm in ARMS)
    with_norm, without = (np.where(np.isfinite(highest), highest, np.nan) for highest in trained)
    return tuple((with_norm - without).tolist())


def _rows(found: Accuracies, points: Sequence[float]) -> tuple[Row, ...]:
    return tuple(
        (f"{point:.3g}", *(estimate([row[index] for row in found[arm]]) for arm in ARMS))
        for index, point in enumerate(points)
    )


def _draw(title: str, label: str, found: Accuracies, points: Sequence[float]) -> bytes:
    series = [Series(arm, found[arm]) for arm in ARMS]
    return draw([Lines(title, label, "training accuracy", points, series, log_x=True, mark=TRAINED)])
