"""Experiment 5: what BatchNorm does for held-out digits, alone and with dropout behind or before it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from normfold.models.architectures.mlp import Mlp
from normfold.models.study.finding import Check, Finding, Row, Table, estimate
from normfold.models.study.harness import LR, blocks_of, load_digits, make_mlp, measure, train, twin
from normfold.models.study.plots import ERRORS, Bars, Series, draw

COLUMNS = ("network", "training accuracy", "test accuracy", "variance at inference over the running one")

ROWS = 300
"""Of the training split: few, so that there is something to regularise."""
DROPOUT = 0.5

PLAIN, PLAIN_BEHIND, PLAIN_BEFORE = "neither", "dropout behind", "dropout before"
NORM, BEHIND, BEFORE = "BatchNorm alone", "BatchNorm, dropout behind", "BatchNorm, dropout before"


@dataclass(frozen=True)
class Arm:
    """One way to build the network."""

    norm: bool
    behind: float = 0.0
    before: float = 0.0


ARMS = {
    PLAIN: Arm(norm=False),
    PLAIN_BEHIND: Arm(norm=False, behind=DROPOUT),
    PLAIN_BEFORE: Arm(norm=False, before=DROPOUT),
    NORM: Arm(norm=True),
    BEHIND: Arm(norm=True, behind=DROPOUT),
    BEFORE: Arm(norm=True, before=DROPOUT),
}


def run(seeds: Sequence[int], steps: int = 300) -> Finding:
    """Train all arms on few digits.

    Args:
        seeds: one network of each arm each; also of the digits that are trained on.
        steps: of training.
    """
    found = {name: np.array([follow(seed, arm, steps) for seed in seeds]) for name, arm in ARMS.items()}
    test = {name: values[:, 1] for name, values in found.items()}
    shift = {name: np.abs(np.log(found[name][:, 2])) for name in (BEHIND, BEFORE)}
    checks = (
        Check(
            "BatchNorm alone regularises: it gives a better test accuracy.",
            "Ioffe & Szegedy 2015, arXiv:1502.03167, section 3.4",
            "test accuracy, BatchNorm alone − neither",
            tuple(test[NORM] - test[PLAIN]),
        ),
        Check(
            "Dropout gains less where there is BatchNorm.",
            "Ioffe & Szegedy 2015, arXiv:1502.03167, sections 3.4 and 4.2",
            "gain in test accuracy by dropout behind the last block, without BatchNorm − with",
            tuple((test[PLAIN_BEHIND] - test[PLAIN]) - (test[BEHIND] - test[NORM])),
        ),
        Check(
            "Dropout before a BatchNorm shifts the variance from training to inference, behind the last one not.",
            "Li et al. 2019, arXiv:1801.05134",
            "size of the logarithm of variance at inference over running variance, before − behind",
            tuple(shift[BEFORE] - shift[BEHIND]),
        ),
        Check(
            "Dropout behind the last BatchNorm gives a better test accuracy than before it.",
            "Li et al. 2019, arXiv:1801.05134",
            "test accuracy, behind − before",
            tuple(test[BEHIND] - test[BEFORE]),
        ),
        Check(
            "Dropout loses more by standing before the last block where that has a BatchNorm than where it has none.",
            "Li et al. 2019, arXiv:1801.05134; the networks without BatchNorm are the control",
            "test accuracy, behind − before: with BatchNorm − without",
            tuple((test[BEHIND] - test[BEFORE]) - (test[PLAIN_BEHIND] - test[PLAIN_BEFORE])),
        ),
    )
    rows: tuple[Row, ...] = tuple(
        (name, *(estimate(values[:, column]) for column in range(3))) for name, values in found.items()
    )
    accuracies = [
        Series(title, np.transpose([values[:, column] for values in found.values()]))
        for column, title in enumerate(("training", "test"))
    ]
    shifts = Series("shift", np.transpose([found[name][:, 2] for name in (NORM, BEHIND, BEFORE)]))
    return Finding(
        "regularisation",
        "Regularisation, alone and with dropout",
        f"The perceptrons on {ROWS} training digits, {steps} steps at learning rate {LR:g}, dropout of {DROPOUT:g} in "
        "one place: behind the last block, or before the last block, whose BatchNorm then sees it. The variance is "
        "that of the inputs of the last BatchNorm over the training digits in inference mode, over the running one "
        "(geometric mean over channels): 1 is no shift.",
        Table(COLUMNS, rows),
        ERRORS.format(len(seeds)),
        draw(
            [
                Bars("Accuracy", "accuracy", list(ARMS), accuracies, limits=(0.8, 1.0)),
                Bars(
                    "Variance at inference over running",
                    "ratio",
                    ["no dropout", "behind", "before"],
                    [shifts],
                    mark=1.0,
                ),
            ]
        ),
        checks,
    )


def make_network(seed: int, arm: Arm) -> Mlp:
    """Return a network of an arm."""
    network = make_mlp(seed, arm.norm, dropout=arm.behind)
    if arm.before:
        network.blocks.insert(len(network.blocks) - 1, nn.Dropout(arm.before))
    return network


def follow(seed: int, arm: Arm, steps: int) -> tuple[float, float, float]:
    """Train one network; return training accuracy, test accuracy, and the shift of variance (NaN without BatchNorm)."""
    digits = load_digits().first(ROWS, seed)
    network = make_network(seed, arm)
    train(network, digits, seed, steps)
    train_accuracy = measure(network, digits.train_x, digits.train_y)[1]
    shift = variance_shift(network, digits.train_x) if arm.norm else float("nan")
    return train_accuracy, measure(network, digits.test_x, digits.test_y)[1], shift


def variance_shift(network: Mlp, x: Tensor) -> float:
    """Return the variance of the last BatchNorm's inputs in eval mode over its running one: geometric mean.

    Channels that hardly vary (a variance under 1e-8) are left out.
    """
    copy = twin(network).eval()
    norm = blocks_of(copy)[-1].norm
    assert isinstance(norm, nn.BatchNorm1d)
    assert norm.running_var is not None
    seen: list[Tensor] = []
    norm.register_forward_pre_hook(lambda *call: seen.append(call[1][0]))
    with torch.no_grad():
        copy(x)
    actual, running = seen[0].var(0), norm.running_var
    alive = (actual > 1e-8) & (running > 1e-8)
    return float((actual[alive] / running[alive]).log().mean().exp())
