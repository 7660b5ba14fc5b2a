from __future__ import annotations

import math
from itertools import pairwise
from typing import Literal

import pytest
import torch
from torch import nn

from normfold.models.training.config import TrainConfig
from normfold.models.training.learning_rate.schedules import learning_rate, one_cycle

Schedule = Literal["one-cycle", "cosine", "step", "constant"]


def rates(steps: int, schedule: Schedule, warmup_fraction: float | None = None) -> list[float]:
    settings = TrainConfig(lr=0.5, schedule=schedule, warmup_fraction=warmup_fraction)
    return [learning_rate(step, steps, settings) for step in range(steps)]


@pytest.mark.slow
@pytest.mark.parametrize(("steps", "warmup"), [(10, 0.3), (37, 0.25), (1000, 0.1)])
def test_one_cycle_equals_torchs_schedule(steps: int, warmup: float) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 0.5, total_steps=steps, pct_start=warmup, cycle_momentum=False
    )
    for step in range(steps):
        assert one_cycle(step, steps, 0.5, warmup) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
        optimizer.step()
        if step < steps - 1:
            schedule.step()


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("schedule", ["one-cycle", "cosine", "step", "constant"])
@pytest.mark.parametrize("warmup", [None, 0.0, 0.3, 0.99])
def test_schedule_of_few_steps_does_not_exceed_the_peak(steps: int, schedule: Schedule, warmup: float | None) -> None:
    assert all(0 < rate <= 0.5 for rate in rates(steps, schedule, warmup))


def test_schedule_is_one_cycle_by_default_with_a_warmup_of_its_own() -> None:
    assert rates(40, "one-cycle") == [one_cycle(step, 40, 0.5, 0.3) for step in range(40)]
    assert max(range(40), key=rates(40, "one-cycle").__getitem__) == 11


def test_cosine_equals_torchs_schedule() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 50)
    for rate in rates(50, "cosine"):
        assert rate == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        schedule.step()


def test_step_divides_by_ten_after_half_and_three_quarters() -> None:
    assert rates(8, "step") == pytest.approx([0.5] * 4 + [0.05] * 2 + [0.005] * 2, rel=1e-12)


def test_constant_is_the_peak_after_a_linear_warmup() -> None:
    assert rates(5, "constant") == [0.5] * 5
    assert rates(8, "constant", 0.5) == pytest.approx([0.125, 0.25, 0.375, *[0.5] * 5], rel=1e-12)


@pytest.mark.parametrize("schedule", ["cosine", "step"])
def test_warmup_rises_to_the_peak_before_the_schedule(schedule: Schedule) -> None:
    found = rates(100, schedule, 0.2)
    assert found[:20] == pytest.approx([0.025 * (step + 1) for step in range(20)], rel=1e-12)
    assert all(later <= earlier for earlier, later in pairwise(found[19:]))
    assert math.isclose(max(found), 0.5)
