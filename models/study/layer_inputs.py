"""Experiment 1: how the inputs of a layer are distributed while the layers before it learn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, cross_entropy

from normfold.models.architectures.mlp import Mlp
from normfold.models.study.finding import Check, Finding, Table, estimate
from normfold.models.study.harness import ARMS, LR, batches, blocks_of, load_digits, make_mlp, train, twin, weight_of
from normfold.models.study.plots import ERRORS, Lines, Series, draw

COLUMNS = ("network", "drift between looks, in spreads", "gradient turned by earlier layers (1 − cosine)")

PERCENTILES = (15, 50, 85)
LOOKS = 50
PROBE = 256
"""Rows on which distributions are looked at."""


@dataclass
class Record:
    """What was seen of one network, one entry a look."""

    steps: list[int] = field(default_factory=list)
    percentiles: list[list[float]] = field(default_factory=list)
    """Of the first unit: (looks, percentiles)."""
    means: list[Tensor] = field(default_factory=list)
    """Of every unit: (units,) each."""
    spreads: list[Tensor] = field(default_factory=list)
    turns: list[float] = field(default_factory=list)

    def drifts(self) -> list[float]:
        """Return how far a unit's mean moved since the look before, in its standard deviations, mean over units."""
        pairs = zip(self.means, self.means[1:], self.spreads[1:], strict=False)
        return [float(((now - before).abs() / spread.clamp_min(1e-6)).mean()) for before, now, spread in pairs]


def run(seeds: Sequence[int], steps: int = 300) -> Finding:
    """Train with and without BatchNorm, and follow what enters the last hidden layer's activation.

    Args:
        seeds: one pair of networks each.
        steps: of training.
    """
    records = {arm: [follow(seed, norm, steps) for seed in seeds] for arm, norm in ARMS.items()}
    drifts = {arm: [float(np.mean(record.drifts())) for record in records[arm]] for arm in ARMS}
    turns = {arm: [float(np.nanmean(record.turns)) for record in records[arm]] for arm in ARMS}
    with_norm, without = ARMS
    checks = (
        Check(
            "BatchNorm keeps the distribution of a layer’s inputs stable during training.",
            "Ioffe & Szegedy 2015, arXiv:1502.03167, sections 2 and 4.1 (figure 1)",
            "drift without − with",
            tuple(np.subtract(drifts[without], drifts[with_norm])),
        ),
        Check(
            "With BatchNorm, a layer’s gradient changes less when the layers before it are updated (internal covariate "
            "shift).",
            "Claimed by Ioffe & Szegedy 2015; disputed by Santurkar et al. 2018, arXiv:1805.11604, section 2.2, whose "
            "measure this is",
            "turn of the gradient without − with",
            tuple(np.subtract(turns[without], turns[with_norm])),
        ),
    )
    rows = tuple((arm, estimate(drifts[arm]), estimate(turns[arm])) for arm in ARMS)
    return Finding(
        "layer-inputs",
        "The inputs of a layer during training",
        f"Perceptrons with five hidden layers of 64 units, {steps} steps at learning rate {LR:g}. What enters the last "
        f"hidden activation is looked at on {PROBE} test digits, with batch statistics where there is BatchNorm. "
        "Drift: how far a unit’s mean moves between two looks, in standard deviations of that unit, mean over units "
        "and looks; behind a BatchNorm only its shift can move it, so part of this is so by construction. Turn: "
        "1 − cosine between the last hidden layer’s gradient before and after the layers before it take their own step "
        "on the same batch.",
        Table(COLUMNS, rows),
        "Above: percentiles of one unit, the first of the last hidden layer, for the first seed. Below: all units, all "
        "seeds. " + ERRORS.format(len(seeds)),
        _draw(records),
        checks,
    )


def follow(seed: int, norm: bool, steps: int) -> Record:
    """Train one network and return what was seen."""
    digits = load_digits()
    network = make_mlp(seed, norm)
    record = Record()
    shuffled = batches(digits, 64, seed + 1000)  # other batches than those that it learns from

    def look(step: int) -> None:
        inputs = inputs_of_last(network, digits.test_x[:PROBE])
        record.steps.append(step)
        record.percentiles.append(np.percentile(inputs[:, 0].numpy(), PERCENTILES).tolist())
        record.means.append(inputs.mean(0))
        record.spreads.append(inputs.std(0))
        record.turns.append(turn(network, *next(shuffled)))

    train(network, digits, seed, steps, every=max(steps // LOOKS, 1), look=look)
    return record


def inputs_of_last(network: Mlp, x: Tensor) -> Tensor:
    """Return what enters the last hidden activation, (N, units), with batch statistics; changes nothing."""
    copy = twin(network).train()
    seen: list[Tensor] = []
    blocks_of(copy)[-1].norm.register_forward_hook(lambda *call: seen.append(call[2]))
    with torch.no_grad():
        copy(x)
    return seen[0]


def turn(network: Mlp, x: Tensor, y: Tensor, lr: float = LR) -> float:
    """Return 1 − cosine between the last hidden layer's gradient before and after the earlier layers' step.

    NaN where a gradient is 0. The network stays as it is.
    """
    copy = twin(network).train()
    *earlier, last = blocks_of(copy)
    before = _gradient(copy, weight_of(last), x, y)
    with torch.no_grad():
        for block in earlier:
            for parameter in block.parameters():
                assert parameter.grad is not None
                parameter.sub_(lr * parameter.grad)
    after = _gradient(copy, weight_of(last), x, y)
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
    for arm in reversed(ARMS):
        first = records[arm][0]
        lines = [
            Series(f"{percentile}th percentile", [row[index] for row in first.percentiles])
            for index, percentile in enumerate(PERCENTILES)
        ]
        panels.append(
            Lines(f"One unit, {arm}", "step", "input of the activation", first.steps, lines, limits=(low, high))
        )
    shortest = min(len(record.drifts()) for found in records.values() for record in found)
    drifts = [Series(arm, [record.drifts()[:shortest] for record in found]) for arm, found in records.items()]
    steps = records["without"][0].steps[1 : shortest + 1]
    panels.append(Lines("Drift of the units’ means", "step", "spreads", steps, drifts, log_y=True))
    turns = [Series(arm, [record.turns[:shortest] for record in found]) for arm, found in records.items()]
    steps = records["without"][0].steps[:shortest]
    panels.append(Lines("Turn of the gradient", "step", "1 − cosine", steps, turns))
    return draw(panels)
