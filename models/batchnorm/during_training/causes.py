"""Causes for which batch statistics and running statistics differ at the end of a run, each with layers and remedy.

The figures of the epoch whose weights the checkpoint holds decide. Each cause has figures of its own:

    momentum            weight that the statistics from before the run still have: (1 - momentum)^steps
    dropout             a dropout before the layer, and a smaller variance in eval mode than the running variance
    changing weights    the last batches differ from the running statistics, without the first cause
    other inputs        inputs in eval mode differ from the running statistics, and the last batches do not
    small batches       statistics of single batches differ from their mean, and the batches have few rows
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from normfold.models.batchnorm.during_training.measure import LAST_STEPS
from normfold.models.statistics.epochs import EpochStatistics, LayerFigures
from normfold.models.training.config import MIN_USUAL_BATCH_ROWS

MAX_DIFFERENCE = 0.3
"""Limit of the figures `batch` and `inference`, in standard deviations. Nine architectures on digits, five seeds each:
none had over 0.05 and 0.12; with momentum 0.001 they had 0.70 and 0.85 or more."""

MAX_NOISE = 0.08
"""Limit of the figure `noise`, in standard deviations, for batches with few rows: with 4 rows, 0.085 to 0.61."""

MAX_EARLIER_WEIGHT = 0.05
"""Limit of the weight of the statistics from before the run: torch's default of 0.1 needs 29 steps."""

MAX_VARIANCE_RATIO = 0.9
"""Limit of the variance in eval mode over the running variance behind a dropout, median over channels: 0.92 or more in
sound layers, 0.58 or less in the worst layer behind a dropout of 0.5."""


@dataclass(frozen=True)
class TrainingFacts:
    """What is known of a run besides the figures."""

    batch_rows: int
    """Rows over which a BatchNorm computes its statistics."""
    steps: int
    """Steps of the run up to the epoch of the checkpoint."""
    momentum: Mapping[str, float | None]
    """By layer; None for an average over all batches."""
    dropout: Mapping[str, float]
    """Largest probability of a dropout before the layer; only of layers that have one before them."""


@dataclass(frozen=True)
class Cause:
    """A cause that the figures of some layers have."""

    layers: tuple[str, ...]
    """The worst first."""
    sentences: str
    """What was measured, the cause, and the remedy."""


def find_causes(statistics: EpochStatistics, facts: TrainingFacts) -> list[Cause]:
    """Return the causes for which batch and running statistics differ; each layer is in one of them at most.

    Args:
        statistics: of the epoch whose weights the checkpoint holds.
        facts: of the run.
    """
    layers = statistics.layers
    groups: dict[str, dict[str, LayerFigures]] = {}
    for name in sorted(layers, key=lambda name: layers[name].difference, reverse=True):
        cause = _cause_of(name, layers[name], facts)
        if cause is not None:
            groups.setdefault(cause, {})[name] = layers[name]
    return [Cause(tuple(found), _sentences(cause, found, len(layers), facts)) for cause, found in groups.items()]


def _cause_of(name: str, figures: LayerFigures, facts: TrainingFacts) -> str | None:
    batch, inference, ratio = _beyond_noise(figures), figures.inference or 0.0, figures.variance_ratio
    differs = max(batch, inference) > MAX_DIFFERENCE
    if differs and _earlier_weight(facts.momentum[name], facts.steps) > MAX_EARLIER_WEIGHT:
        return "momentum"
    if name in facts.dropout and batch <= MAX_DIFFERENCE and ratio is not None and ratio < MAX_VARIANCE_RATIO:
        return "dropout"
    if batch > MAX_DIFFERENCE:
        return "changing weights"
    if inference > MAX_DIFFERENCE:
        return "other inputs"
    if facts.batch_rows < MIN_USUAL_BATCH_ROWS and (figures.noise or 0.0) > MAX_NOISE:
        return "small batches"
    return None


def _beyond_noise(figures: LayerFigures) -> float:
    """Return the figure `batch` without what the noise of its batches adds: noise² / LAST_STEPS to its square."""
    squares = (figures.batch or 0.0) ** 2 - (figures.noise or 0.0) ** 2 / LAST_STEPS
    return math.sqrt(max(squares, 0.0))


def _earlier_weight(momentum: float | None, steps: int) -> float:
    """Return the weight of the statistics from before the run; an average over all batches has none of them."""
    return 0.0 if momentum is None else (1 - momentum) ** steps


def _sentences(cause: str, found: Mapping[str, LayerFigures], layers: int, facts: TrainingFacts) -> str:
    worst, figures = next(iter(found.items()))
    which = f"{len(found)} of {layers} BatchNorms, most in {worst!r}"
    if cause == "momentum":
        momentum = facts.momentum[worst] or 0.0
        return (
            f"The running statistics differ from those of the batches by {figures.difference:.2g} standard deviations "
            f"({which}): with momentum {momentum:g}, the values from before the run still weigh "
            f"{_earlier_weight(momentum, facts.steps):.0%} after {facts.steps} steps. Build the layers with a momentum "
            f"of {_needed_momentum(facts.steps):.2g} or more, or train for more steps; export recalibrates them."
        )
    if cause == "dropout":
        return (
            f"In inference the inputs of BatchNorm have {figures.variance_ratio:.2g} times the running variance "
            f"({which}), which was measured behind a dropout of p = {facts.dropout[worst]:g}. Move the dropout behind "
            "the last BatchNorm; export recalibrates the running statistics."
        )
    if cause == "changing weights":
        average = "an average over all batches" if facts.momentum[worst] is None else "their moving average"
        return (
            f"The running statistics differ from those of the last batches by {figures.difference:.2g} standard "
            f"deviations ({which}): the weights changed faster than {average}. Train with a lower `lr`, or for more "
            "epochs; export recalibrates them."
        )
    if cause == "other inputs":
        return (
            f"In inference the inputs of BatchNorm differ from the running statistics by {figures.inference:.2g} "
            f"standard deviations ({which}), and those of training do not: look at what training alone does, such as "
            "augmentation, and whether the validation data are like the training data; export recalibrates them."
        )
    return (
        f"The statistics of single batches differ from their mean by {figures.noise:.2g} standard deviations "
        f"({which}): a batch has {facts.batch_rows} rows, and inference has none of this noise. Train with "
        f"`batch_size` {MIN_USUAL_BATCH_ROWS} or more; export recalibrates the running statistics."
    )


def _needed_momentum(steps: int) -> float:
    """Return the momentum with which the values from before the run weigh MAX_EARLIER_WEIGHT after some steps."""
    return float(1 - MAX_EARLIER_WEIGHT ** (1 / steps))
