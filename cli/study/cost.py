"""Experiment 9 of `normfold study`: cost of BatchNorm in training, and in inference folded and unfolded."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from normfold.cli.study.inference import (
    BATCHES,
    FOLDED,
    LARGE_BATCH,
    SESSIONS,
    UNFOLDED,
    InferenceCost,
    inference_costs,
)

if TYPE_CHECKING:
    from normfold.models.study.result import Check, ExperimentResult
    from normfold.models.study.training_cost import TrainingCost

COLUMNS = ("quantity", "with BatchNorm; unfolded", "without; folded", "ratio")

ROUNDS = 60

STEPS_BEFORE_EXPORT = 20
"""Training steps before a network is exported; the fold writes no bias for an untrained one, whose offsets are 0."""

Pairs = dict[str, list[tuple[float, float]]]
"""By quantity: for each seed, (with BatchNorm or unfolded, without BatchNorm or folded)."""


def run_cost(seeds: Sequence[int], rounds: int = ROUNDS) -> ExperimentResult:
    """Measure time and memory of training with and without BatchNorm, and of the unfolded and folded model.

    Args:
        seeds: one set of networks for each seed.
        rounds: of each measurement, in which its two sides alternate.
    """
    from normfold.models.study.result import ExperimentResult, Row, Table, estimate

    pairs = _measure(seeds, rounds)
    ratios = {
        quantity: [first / second if second > 0 else math.nan for first, second in found]
        for quantity, found in pairs.items()
    }
    rows: tuple[Row, ...] = tuple(
        (
            quantity,
            estimate([first for first, _ in found]),
            estimate([second for _, second in found]),
            estimate(ratios[quantity]),
        )
        for quantity, found in pairs.items()
    )
    return ExperimentResult(
        "cost",
        "Cost in time and memory",
        "Training: a step with a batch of 64, and the bytes that the forward pass saves for the backward pass. "
        "Inference: the convolutional network, exported and folded by Normfold, in ONNX Runtime on one thread, with "
        "its graph optimisation off and on. The two sides of each pair alternate for "
        f"{rounds} rounds (in inference for each of {SESSIONS} sets of sessions); values are medians. Peak memory: the "
        f"increase by one batch of {LARGE_BATCH:,} in a process of its own, with the optimisation off.",
        Table(COLUMNS, rows),
        "Ratios; the dotted line is a ratio of 1. "
        f"Error bars: mean ± standard error over {len(seeds)} networks, one for each seed.",
        _draw(ratios),
        _checks(ratios),
    )


def _measure(seeds: Sequence[int], rounds: int) -> Pairs:
    from normfold.models.study.harness import load_digits, make_convnet, train
    from normfold.models.study.training_cost import NETWORKS, training_costs

    pairs: Pairs = {}
    for seed in seeds:
        for kind in NETWORKS:
            with_batchnorm, without = training_costs(kind, seed, rounds).values()
            _add_training(pairs, kind, with_batchnorm, without)
        with tempfile.TemporaryDirectory() as folder:
            network = make_convnet(seed, batchnorm=True)
            train(network, load_digits(), seed, STEPS_BEFORE_EXPORT)
            costs = inference_costs(network, Path(folder), rounds, seed)
        _add_inference(pairs, costs[UNFOLDED], costs[FOLDED])
    return pairs


def _add_training(pairs: Pairs, kind: str, with_batchnorm: TrainingCost, without: TrainingCost) -> None:
    pairs.setdefault(_step(kind), []).append((with_batchnorm.milliseconds, without.milliseconds))
    pairs.setdefault(_saved(kind), []).append((with_batchnorm.saved_bytes / 1024, without.saved_bytes / 1024))


def _add_inference(pairs: Pairs, unfolded: InferenceCost, folded: InferenceCost) -> None:
    for optimised in (False, True):
        for batch in BATCHES:
            times = unfolded.microseconds[batch, optimised], folded.microseconds[batch, optimised]
            pairs.setdefault(_run(batch, optimised), []).append(times)
    pairs.setdefault("model file, KiB", []).append((unfolded.file_bytes / 1024, folded.file_bytes / 1024))
    pairs.setdefault("peak memory, MiB", []).append((unfolded.peak_bytes / 2**20, folded.peak_bytes / 2**20))


def _step(kind: str) -> str:
    return f"training step, {kind}, ms"


def _saved(kind: str) -> str:
    return f"saved for backward, {kind}, KiB"


def _run(batch: int, optimised: bool) -> str:
    return f"batch of {batch}, optimisation {'on' if optimised else 'off'}, µs"


def _checks(ratios: dict[str, list[float]]) -> tuple[Check, ...]:
    from normfold.models.study.result import Check

    return tuple(
        Check(claim, source, f"{quantity}: ratio − 1", tuple(ratio - 1 for ratio in ratios[quantity]))
        for claim, source, quantity in (
            (
                "BatchNorm makes a training step slower.",
                "Gitman & Ginsburg 2017, arXiv:1709.08145",
                _step("convolutional"),
            ),
            (
                "BatchNorm needs memory in training, for the tensors of its backward pass.",
                "Rota Bulò et al. 2018, arXiv:1712.02616",
                _saved("convolutional"),
            ),
            (
                "Folding makes inference faster where the runtime does not optimise the graph.",
                "Ioffe & Szegedy 2015, arXiv:1502.03167, section 3.1: a single linear transform",
                _run(BATCHES[-1], False),
            ),
            (
                "Folding makes inference faster also where the runtime optimises the graph itself.",
                "Ioffe & Szegedy 2015, arXiv:1502.03167, section 3.1: a single linear transform",
                _run(BATCHES[-1], True),
            ),
        )
    )


def _draw(ratios: dict[str, list[float]]) -> bytes:
    from normfold.models.study.plots import Bars, Series, draw

    inference_start = len(ratios) - len(BATCHES) * 2 - 2
    names = list(ratios)
    panels = []
    for title, group in (
        ("Training: with / without", names[:inference_start]),
        ("Inference: unfolded / folded", names[inference_start:]),
    ):
        values = [[ratios[quantity][seed] for quantity in group] for seed in range(len(ratios[names[0]]))]
        labels = [quantity.rpartition(", ")[0].replace(", ", "\n", 1) for quantity in group]
        panels.append(Bars(title, "ratio", labels, [Series("ratio", values)], mark=1.0))
    return draw(panels)
