"""Experiment 5: effect of BatchNorm on test accuracy, alone, and with dropout after or before it."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from normfold.models.architectures.mlp import Mlp
from normfold.models.study.harness import LR, blocks_of, load_digits, make_mlp, measure, train
from normfold.models.study.plots import ERRORS, Bars, Series, draw
from normfold.models.study.result import Check, ExperimentResult, Row, Table, estimate

COLUMNS = ("network", "training accuracy", "test accuracy", "variance in inference / running variance")

ROWS = 300
"""Training rows: few, so that networks overfit without regularisation."""
DROPOUT = 0.5

PLAIN, PLAIN_AFTER, PLAIN_BEFORE = "neither", "dropout after", "dropout before"
BATCHNORM, AFTER, BEFORE = "BatchNorm alone", "BatchNorm, dropout after", "BatchNorm, dropout before"


@dataclass(frozen=True)
class Variant:
    """One way to build the network."""

    batchnorm: bool
    after: float = 0.0
    """Probability of a dropout after the last block."""
    before: float = 0.0
    """Probability of a dropout before the last block."""


VARIANTS = {
    PLAIN: Variant(batchnorm=False),
    PLAIN_AFTER: Variant(batchnorm=False, after=DROPOUT),
    PLAIN_BEFORE: Variant(batchnorm=False, before=DROPOUT),
    BATCHNORM: Variant(batchnorm=True),
    AFTER: Variant(batchnorm=True, after=DROPOUT),
    BEFORE: Variant(batchnorm=True, before=DROPOUT),
}


def run(seeds: Sequence[int], steps: int = 300) -> ExperimentResult:
    """Train all variants on few digits.

    Args:
        seeds: one network of each variant, and one subset of the digits, for each seed.
        steps: training steps.
    """
    found = {
        name: np.array([train_and_measure(seed, variant, steps) for seed in seeds])
        for name, variant in VARIANTS.items()
    }
    test = {name: values[:, 1] for name, values in found.items()}
    mismatch = {name: np.abs(np.log(found[name][:, 2])) for name in (AFTER, BEFORE)}
    checks = (
        Check(
            "BatchNorm alone regularises: it gives a better test accuracy.",
            "Ioffe & Szegedy 2015, arXiv:1502.03167, section 3.4",
            "test accuracy, BatchNorm alone − neither",
            tuple(test[BATCHNORM] - test[PLAIN]),
        ),
        Check(
            "Dropout improves test accuracy less in a network with BatchNorm.",
            "Ioffe & Szegedy 2015, arXiv:1502.03167, sections 3.4 and 4.2",
            "gain in test accuracy by dropout after the last block, without BatchNorm − with",
            tuple((test[PLAIN_AFTER] - test[PLAIN]) - (test[AFTER] - test[BATCHNORM])),
        ),
        Check(
            "Dropout before a BatchNorm changes the variance of its inputs from training to inference; dropout after "
            "the last BatchNorm does not.",
            "Li et al. 2019, arXiv:1801.05134",
            "absolute logarithm of variance in inference / running variance, before − after",
            tuple(mismatch[BEFORE] - mismatch[AFTER]),
        ),
        Check(
            "Dropout after the last BatchNorm gives a better test accuracy than before it.",
            "Li et al. 2019, arXiv:1801.05134",
            "test accuracy, after − before",
            tuple(test[AFTER] - test[BEFORE]),
        ),
        Check(
            "Dropout before the last block costs more accuracy in a network with BatchNorm than in one without.",
            "Li et al. 2019, arXiv:1801.05134; the networks without BatchNorm are the control",
            "test accuracy, after − before: with BatchNorm − without",
            tuple((test[AFTER] - test[BEFORE]) - (test[PLAIN_AFTER] - test[PLAIN_BEFORE])),
        ),
    )
    rows: tuple[Row, ...] = tuple(
        (name, *(estimate(values[:, column]) for column in range(3))) for name, values in found.items()
    )
    accuracies = [
        Series(title, np.transpose([values[:, column] for values in found.values()]))
        for column, title in enumerate(("training", "test"))
    ]
    ratios = Series("ratio", np.transpose([found[name][:, 2] for name in (BATCHNORM, AFTER, BEFORE)]))
    return ExperimentResult(
        "regularisation",
        "Regularisation, alone and with dropout",
        f"The perceptrons on {ROWS} training digits, {steps} steps at learning rate {LR:g}, with a dropout of "
        f"{DROPOUT:g} in one place: after the last block, or before the last block, and so before its BatchNorm. The "
        "ratio is the variance of the inputs of the last BatchNorm over the training digits in inference mode, divided "
        "by its running variance (geometric mean over channels); 1 means that they agree.",
        Table(COLUMNS, rows),
        ERRORS.format(len(seeds)),
        draw(
            [
                Bars("Accuracy", "accuracy", list(VARIANTS), accuracies, limits=(0.8, 1.0)),
                Bars(
                    "Variance in inference / running variance",
                    "ratio",
                    ["no dropout", "after", "before"],
                    [ratios],
                    mark=1.0,
                ),
            ]
        ),
        checks,
    )


def make_network(seed: int, variant: Variant) -> Mlp:
    """Return the network of a variant."""
    network = make_mlp(seed, variant.batchnorm, dropout=variant.after)
    if variant.before:
        network.blocks.insert(len(network.blocks) - 1, nn.Dropout(variant.before))
    return network


def train_and_measure(seed: int, variant: Variant, steps: int) -> tuple[float, float, float]:
    """Train one network; return training accuracy, test accuracy, and variance ratio (NaN without BatchNorm)."""
    digits = load_digits().first(ROWS, seed)
    network = make_network(seed, variant)
    train(network, digits, seed, steps)
    train_accuracy = measure(network, digits.train_x, digits.train_y)[1]
    ratio = running_variance_ratio(network, digits.train_x) if variant.batchnorm else float("nan")
    return train_accuracy, measure(network, digits.test_x, digits.test_y)[1], ratio


def running_variance_ratio(network: Mlp, x: Tensor) -> float:
    """Return the variance of the last BatchNorm's inputs in eval mode, divided by its running_var: geometric mean.

    Channels with a variance of at most 1e-8 are left out.

    Args:
        network: with BatchNorm; it is not changed.
        x: (N, 1, 8, 8).
    """
    copied = deepcopy(network).eval()
    layer = blocks_of(copied)[-1].norm
    assert isinstance(layer, nn.BatchNorm1d)
    assert layer.running_var is not None
    inputs: list[Tensor] = []
    layer.register_forward_pre_hook(lambda *call: inputs.append(call[1][0]))
    with torch.no_grad():
        copied(x)
    actual, running = inputs[0].var(0), layer.running_var
    varies = (actual > 1e-8) & (running > 1e-8)
    return float((actual[varies] / running[varies]).log().mean().exp())
