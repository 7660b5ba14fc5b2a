"""Experiment 1: the distribution of a layer's inputs while the layers before it are trained."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, cross_entropy

from normfold.models.architectures.mlp import Mlp
from normfold.models.study.harness import LR, VARIANTS, batches, blocks_of, load_digits, make_mlp, train, weight_of
from normfold.models.study.plots import ERRORS, Lines, Series, draw
from normfold.models.study.result import Check, ExperimentResult, Table, estimate

COLUMNS = (
    "network",
    "change of the means between measurements, in standard deviations",
    "change of the gradient by earlier layers (1 − cosine)",
)

PERCENTILES = (15, 50, 85)
MEASUREMENTS = 50
ROWS = 256
"""Test rows over which distributions are measured."""


@dataclass
class Record:
    """Measurements of one network during training, one entry each."""

    steps: list[int] = field(default_factory=list)
    percentiles: list[list[float]] = field(default_factory=list)
    """Percentiles of the first unit's inputs: (measurements, percentiles)."""
    means: list[Tensor] = field(default_factory=list)
    """Mean of every unit's inputs, (units,) each."""
    stds: list[Tensor] = field(default_factory=list)
    """Standard deviation of every unit's inputs, (units,) each."""
    gradient_changes: list[float] = field(default_factory=list)
    """1 − cosine; see `gradient_change`."""

    def mean_changes(self) -> list[float]:
        """Return the change of each unit's mean since the previous measurement, in its standard deviations.

        Averages over the units; one fewer than there are measurements.
        """
        pairs = zip(self.means, self.means[1:], self.stds[1:], strict=False)
        return [float(((after - before).abs() / std.clamp_min(1e-6)).mean()) for before, after, std in pairs]


def run(seeds: Sequence[int], steps: int = 300) -> ExperimentResult:
    """Train with and without BatchNorm, and measure the inputs of the last hidden activation.

    Args:
        seeds: one pair of networks for each seed.
        steps: training steps.
    """
    records = {
        variant: [train_and_measure(seed, batchnorm, steps) for seed in seeds]
        for variant, batchnorm in VARIANTS.items()
    }
    changes = {variant: [float(np.mean(record.mean_changes())) for record in records[variant]] for variant in VARIANTS}
    gradients = {
        variant: [float(np.nanmean(record.gradient_changes)) for record in records[variant]] for variant in VARIANTS
    }
    with_batchnorm, without = VARIANTS
    checks = (
        Check(
            "BatchNorm keeps the distribution of a layer’s inputs stable during training.",
            "Ioffe & Szegedy 2015, arXiv:1502.03167, sections 2 and 4.1 (figure 1)",
            "change of the means, without − with",
            tuple(np.subtract(changes[without], changes[with_batchnorm])),
        ),
        Check(
            "With BatchNorm, a layer’s gradient changes less when the layers before it are updated (internal covariate "
            "shift).",
            "Claimed by Ioffe & Szegedy 2015; disputed by Santurkar et al. 2018, arXiv:1805.11604, section 2.2, which "
            "defines this measure",
            "change of the gradient, without − with",
            tuple(np.subtract(gradients[without], gradients[with_batchnorm])),
        ),
    )
    rows = tuple((variant, estimate(changes[variant]), estimate(gradients[variant])) for variant in VARIANTS)
    return ExperimentResult(
        "layer-inputs",
        "The inputs of a layer during training",
        f"Perceptrons with five hidden layers of 64 units, {steps} steps at learning rate {LR:g}. The inputs of the "
        f"last hidden activation are measured on {ROWS} test digits, with batch statistics where there is BatchNorm. "
        "Change of the means: that of a unit’s mean between two measurements, in standard deviations of the unit, "
        "averaged over units and measurements; after a BatchNorm only its shift can change the mean, so that part of "
        "the difference is by construction. Change of the gradient: 1 − cosine between the last hidden layer’s "
        "gradient before and after the layers before it take their own step on the same batch.",
        Table(COLUMNS, rows),
        "Above: percentiles of one unit, the first of the last hidden layer, for the first seed. Below: all units, all "
        "seeds. " + ERRORS.format(len(seeds)),
        _draw(records),
        checks,
    )


def train_and_measure(seed: int, batchnorm: bool, steps: int) -> Record:
    """Train one network and return the measurements."""
    digits = load_digits()
    network = make_mlp(seed, batchnorm)
    record = Record()
    shuffled = batches(digits, 64, seed + 1000)  # other batches than those of the training

    def observe(step: int) -> None:
        inputs = last_activation_inputs(network, digits.test_x[:ROWS])
        record.steps.append(step)
        record.percentiles.append(np.percentile(inputs[:, 0].numpy(), PERCENTILES).tolist())
        record.means.append(inputs.mean(0))
        record.stds.append(inputs.std(0))
        record.gradient_changes.append(gradient_change(network, *next(shuffled)))

    train(network, digits, seed, steps, every=max(steps // MEASUREMENTS, 1), observe=observe)
    return record


def last_activation_inputs(network: Mlp, x: Tensor) -> Tensor:
    """Return the inputs of the last hidden activation, (N, units), with batch statistics; `network` does not change."""
    copied = deepcopy(network).train()
    outputs: list[Tensor] = []
    blocks_of(copied)[-1].norm.register_forward_hook(lambda *call: outputs.append(call[2]))
    with torch.no_grad():
        copied(x)
    return outputs[0]


def gradient_change(network: Mlp, x: Tensor, y: Tensor, lr: float = LR) -> float:
    """Return 1 − cosine between the last hidden layer's gradient before and after a step of the earlier layers.

    Source: Santurkar et al. 2018, arXiv:1805.11604, definition 2.1.

    Args:
        network: it is not changed.
        x: a batch, (B, 1, 8, 8).
        y: (B,), int64.
        lr: learning rate of the step.

    Returns:
        From 0 to 2; NaN if a gradient is 0.
    """
    copied = deepcopy(network).train()
    *earlier, last = blocks_of(copied)
    before = _gradient(copied, weight_of(last), x, y)
    with torch.no_grad():
        for block in earlier:
            for parameter in block.parameters():
                assert parameter.grad is not None
                parameter.sub_(lr * parameter.grad)
    after = _gradient(copied, weight_of(last), x, y)
    if not before.any() or not after.any():
        return float("nan")
    return 1.0 - float(cosine_similarity(before, after, dim=0))


def _gradient(network: Mlp, weight: Tensor, x: Tensor, y: Tensor) -> Tensor:
    network.zero_grad()
    cross_entropy(network(x), y).backward()  # type: ignore[no-untyped-call]
    assert weight.grad is not None
    return weight.grad.flatten().double()


def _draw(records: dict[str, list[Record]]) -> bytes:
    panels = []
    low = min(min(map(min, found[0].percentiles)) for found in records.values())
    high = max(max(map(max, found[0].percentiles)) for found in records.values())
    for variant in reversed(VARIANTS):
        first = records[variant][0]
        lines = [
            Series(f"{percentile}th percentile", [row[index] for row in first.percentiles])
            for index, percentile in enumerate(PERCENTILES)
        ]
        panels.append(
            Lines(f"One unit, {variant}", "step", "input of the activation", first.steps, lines, limits=(low, high))
        )
    shortest = min(len(record.mean_changes()) for found in records.values() for record in found)
    changes = [
        Series(variant, [record.mean_changes()[:shortest] for record in found]) for variant, found in records.items()
    ]
    steps = records["without"][0].steps[1 : shortest + 1]
    panels.append(Lines("Change of the units’ means", "step", "standard deviations", steps, changes, log_y=True))
    gradients = [
        Series(variant, [record.gradient_changes[:shortest] for record in found]) for variant, found in records.items()
    ]
    steps = records["without"][0].steps[:shortest]
    panels.append(Lines("Change of the gradient", "step", "1 − cosine", steps, gradients))
    return draw(panels)
