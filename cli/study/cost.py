"""The ninth experiment of `normfold study`: what BatchNorm costs in training, and in inference folded and unfolded."""

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
    from normfold.models.study.finding import Check, Finding
    from normfold.models.study.training_cost import Cost

COLUMNS = ("what", "with BatchNorm; unfolded", "without; folded", "ratio")

ROUNDS = 60

STEPS_BEFORE = 20
"""Of training, before a network is exported: a fresh one has offsets of 0, for which the fold writes no bias."""

Pairs = dict[str, list[tuple[float, float]]]
"""By what was measured: for each seed the (dearer, cheaper) figure, as the claim has it."""


def run_cost(seeds: Sequence[int], rounds: int = ROUNDS) -> Finding:
    """Measure time and memory of both kinds of training, and of both model files.

    Args:
        seeds: networks.
        rounds: of each measurement; its two sides take turns.
    """
    from normfold.models.study.finding import Finding, Row, Table, estimate

    pairs = _measure(seeds, rounds)
    ratios = {what: [dear / cheap if cheap > 0 else math.nan for dear, cheap in found] for what, found in pairs.items()}
    rows: tuple[Row, ...] = tuple(
        (what, estimate([dear for dear, _ in found]), estimate([cheap for _, cheap in found]), estimate(ratios[what]))
        for what, found in pairs.items()
    )
    return Finding(
        "cost",
        "Cost in time and memory",
        "Training: a step with a batch of 64, and the bytes that forward keeps for backward. Inference: the "
        "convolutional network, exported and folded by Normfold, under ONNX Runtime on one thread, with the runtime’s "
        "own graph optimisation off and on. Both sides of each pair are measured in turns, "
        f"{rounds} rounds (in inference for each of {SESSIONS} sets of sessions), and the median is taken. Peak "
        f"memory: what one batch of {LARGE_BATCH:,} adds to a process of its own, the optimisation off.",
        Table(COLUMNS, rows),
        "Ratios; dotted: no difference. "
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
            with_norm, without = training_costs(kind, seed, rounds).values()
            _add_training(pairs, kind, with_norm, without)
        with tempfile.TemporaryDirectory() as folder:
            network = make_convnet(seed, norm=True)
            train(network, load_digits(), seed, STEPS_BEFORE)
            costs = inference_costs(network, Path(folder), rounds, seed)
        _add_inference(pairs, costs[UNFOLDED], costs[FOLDED])
    return pairs


def _add_training(pairs: Pairs, kind: str, with_norm: Cost, without: Cost) -> None:
    pairs.setdefault(_step(kind), []).append((with_norm.milliseconds, without.milliseconds))
    pairs.setdefault(_kept(kind), []).append((with_norm.saved_bytes / 1024, without.saved_bytes / 1024))


def _add_inference(pairs: Pairs, unfolded: InferenceCost, folded: InferenceCost) -> None:
    for optimised in (False, True):
        for batch in BATCHES:
            times = unfolded.microseconds[batch, optimised], folded.microseconds[batch, optimised]
            pairs.setdefault(_run(batch, optimised), []).append(times)
    pairs.setdefault("model file, KiB", []).append((unfolded.file_bytes / 1024, folded.file_bytes / 1024))
    pairs.setdefault("peak memory, MiB", []).append((unfolded.peak_bytes / 2**20, folded.peak_bytes / 2**20))


def _step(kind: str) -> str:
    return f"training step, {kind}, ms"


def _kept(kind: str) -> str:
    return f"kept for backward, {kind}, KiB"


def _run(batch: int, optimised: bool) -> str:
    return f"run of {batch}, optimiser {'on' if optimised else 'off'}, µs"


def _checks(ratios: dict[str, list[float]]) -> tuple[Check, ...]:
    from normfold.models.study.finding import Check

    return tuple(
        Check(claim, source, f"{what}: ratio − 1", tuple(ratio - 1 for ratio in ratios[what]))
        for claim, source, what in (
            (
                "BatchNorm makes a training step slower.",
                "Gitman & Ginsburg 2017, arXiv:1709.08145",
                _step("convolutional"),
            ),
            (
                "BatchNorm takes memory in training: what it needs for its backward pass.",
                "Rota Bulò et al. 2018, arXiv:1712.02616",
                _kept("convolutional"),
            ),
            (
                "Folding makes inference faster where the runtime runs the graph as it is.",
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

    half = len(ratios) - len(BATCHES) * 2 - 2
    names = list(ratios)
    panels = []
    for title, group in (("Training: with / without", names[:half]), ("Inference: unfolded / folded", names[half:])):
        values = [[ratios[what][seed] for what in group] for seed in range(len(ratios[names[0]]))]
        labels = [what.rpartition(", ")[0].replace(", ", "\n", 1) for what in group]
        panels.append(Bars(title, "ratio", labels, [Series("ratio", values)], mark=1.0))
    return draw(panels)
