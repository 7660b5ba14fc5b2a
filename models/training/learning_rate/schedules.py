"""The learning rate of each step: a function of the step alone, so that a resumed run needs no state of it."""

from __future__ import annotations

import math

from normfold.models.training.config import TrainConfig

START_DIVISOR = 25.0
"""Peak learning rate divided by the first one, of one cycle."""

END_DIVISOR = 1e4
"""First learning rate divided by the last one, of one cycle."""

MILESTONES, FACTOR = (0.5, 0.75), 0.1
"""Fractions of the steps after which the schedule `step` multiplies the learning rate, and by what.

Source: He et al. 2016, arXiv:1512.03385, section 4.2: divided by 10 after 32,000 and 48,000 of 64,000 steps.
"""


def learning_rate(step: float, steps: float, settings: TrainConfig) -> float:
    """Return the learning rate of a step by the schedule of the settings.

    Args:
        step: from 0.
        steps: number of steps of the whole schedule.
        settings: schedule, peak, and fraction of the steps before the peak.
    """
    peak, warmup_fraction = settings.peak_lr, settings.warmup
    if settings.schedule == "one-cycle":
        return one_cycle(step, steps, peak, warmup_fraction)
    warmup_steps = warmup_fraction * steps
    if step + 1 < warmup_steps:
        return peak * (step + 1) / warmup_steps
    if settings.schedule == "cosine":
        return cosine(step, steps, peak, warmup_steps)
    if settings.schedule == "step":
        return peak * FACTOR ** sum(step >= milestone * steps for milestone in MILESTONES)
    return peak


def cosine(step: float, steps: float, peak: float, warmup_steps: float) -> float:
    """Return the learning rate of a step after the warm-up: half a cosine from the peak towards 0.

    With w = warmup_steps, the step that follows the last one would have 0:
        peak / 2 * (1 + cos(pi * (step - w) / (steps - w)))

    Source: Loshchilov & Hutter 2017, arXiv:1608.03983, equation 5, without restarts.
    """
    return peak / 2 * (1 + math.cos(math.pi * max(0.0, step - warmup_steps) / (steps - warmup_steps)))


def one_cycle(step: float, steps: float, peak: float, warmup_fraction: float) -> float:
    """Return the learning rate of a step: a rise to the peak, then a fall to nearly 0, each along half a cosine.

    With w = warmup_fraction * steps - 1:
        peak / 25   ->  peak              for step in [0, w]
        peak        ->  peak / 250000     for step in [w, steps - 1]

    Source: Smith & Topin 2018, arXiv:1708.07120; the same as torch's OneCycleLR with cycle_momentum=False.

    Args:
        step: from 0.
        steps: number of steps of the whole schedule.
        peak: largest learning rate.
        warmup_fraction: fraction of the steps before the peak.
    """
    first = peak / START_DIVISOR
    peak_step = warmup_fraction * steps - 1
    if step < peak_step:
        return _half_cosine(first, peak, step / peak_step)
    return _half_cosine(peak, first / END_DIVISOR, (step - peak_step) / (steps - 1 - peak_step))


def _half_cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * progress))
