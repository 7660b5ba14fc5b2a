"""Claims of the study with planted measurements: supported if the effect is as claimed, contradicted if it is opposite.

Given measurements replace the training of each network; a check with a wrong variant, column or sign would give another
verdict.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from normfold.models.study import (
    batch_sizes,
    convergence,
    generalisation,
    layer_inputs,
    ranges,
    regularisation,
    serving_modes,
)
from normfold.models.study.batch_sizes import Trained
from normfold.models.study.harness import VARIANTS
from normfold.models.study.layer_inputs import Record
from normfold.models.study.result import ExperimentResult, Verdict

SEEDS = (0, 1, 2)

Fakes = dict[str, Callable[..., Any]]
"""Replacements of a module's functions that train, by name."""


def noise(seed: int) -> float:
    """Return what moves both networks of a seed alike."""
    return 0.01 * (seed - 1)


def of_variant(with_batchnorm: Any, without: Any, swapped: bool) -> Callable[[bool], Any]:
    return lambda batchnorm: with_batchnorm if batchnorm != swapped else without


def layer_inputs_fakes(swapped: bool) -> Fakes:
    mean, gradient = of_variant(0.1, 0.4, swapped), of_variant(0.2, 0.7, swapped)

    def train_and_measure(seed: int, batchnorm: bool, _steps: int) -> Record:
        means = [torch.full((4,), mean(batchnorm) * index + noise(seed)) for index in range(3)]
        return Record([0, 1, 2], [[0.0] * 3] * 3, means, [torch.ones(4)] * 3, [gradient(batchnorm) + noise(seed)] * 3)

    return {"train_and_measure": train_and_measure}


def convergence_fakes(swapped: bool) -> Fakes:
    measurements_until = {0.03: of_variant(4, 10, swapped), 0.1: of_variant(2, 7, swapped)}

    def train_and_measure(seed: int, batchnorm: bool, lr: float, steps: int) -> Any:
        until = measurements_until[lr](batchnorm) + seed
        accuracy = [0.96 if index >= until else 0.5 for index in range(len(convergence.measured_steps(steps)))]
        return np.array([(1.0, one, 0.2) for one in accuracy])  # a test accuracy that reaches nothing

    return {"train_and_measure": train_and_measure}


def rate_fakes(swapped: bool) -> Fakes:
    trains = of_variant((0.1, 1.0, 10.0), (0.1,), swapped)
    return {"_train": lambda _seed, batchnorm, _steps, rate, _scale: 0.95 if rate in trains(batchnorm) else 0.2}


def scale_fakes(swapped: bool) -> Fakes:
    trains = of_variant((0.1, 1.0, 10.0), (0.1,), swapped)
    return {"_train": lambda _seed, batchnorm, _steps, _rate, scale: 0.95 if scale in trains(batchnorm) else 0.2}


def regularisation_fakes(swapped: bool) -> Fakes:
    variants = regularisation.VARIANTS
    test = {"neither": 0.5, "dropout after": 0.7, "dropout before": 0.65}
    test |= {"BatchNorm alone": 0.8, "BatchNorm, dropout after": 0.85, "BatchNorm, dropout before": 0.6}
    ratios = {"BatchNorm alone": 1.0, "BatchNorm, dropout after": 0.99, "BatchNorm, dropout before": 0.6}
    sign = -1 if swapped else 1

    def train_and_measure(seed: int, variant: Any, _steps: int) -> tuple[float, float, float]:
        (name,) = [name for name, one in variants.items() if one == variant]
        ratio = ratios.get(name, float("nan"))
        if swapped:
            ratio = {0.99: 0.6, 0.6: 0.99}.get(ratio, ratio)
        return 0.1 * len(name), sign * test[name] + noise(seed), ratio

    return {"train_and_measure": train_and_measure}


def generalisation_fakes(swapped: bool) -> Fakes:
    test = {70: of_variant(0.8, 0.6, swapped), 100: of_variant(0.9, 0.8, swapped)}
    return {"train_and_measure": lambda seed, batchnorm, size, _steps: (0.98, test[size](batchnorm) + noise(seed))}


def batch_size_fakes(swapped: bool) -> Fakes:
    # With BatchNorm: accuracy, that with recalibrated statistics, error of the means; and the accuracy without.
    small, usual = ((0.3, 0.5, 0.4), 0.6), ((0.9, 0.95, 0.1), 0.8)
    other_small, other_usual = ((0.5, 0.3, 0.1), 0.6), ((0.5, 0.95, 0.4), 0.9)
    of = {2: other_small if swapped else small, 32: other_usual if swapped else usual}

    def with_batchnorm(seed: int, size: int, _steps: int) -> Trained:
        accuracy, recalibrated, error = (value + noise(seed) for value in of[size][0])
        return Trained(accuracy, recalibrated, error, 9.0)

    return {
        "train_with_batchnorm": with_batchnorm,
        "_accuracy_without": lambda seed, size, _steps: of[size][1] + noise(seed),
    }


def serving_fakes(swapped: bool) -> Fakes:
    # In inference mode, in training mode, in inference mode after it.
    served = {serving_modes.SINGLE: (0.9, 0.4, 0.8), serving_modes.MIXED: (0.9, 0.7, 0.6)}
    served[serving_modes.ONE_CLASS] = (0.9, 0.2, 0.3)
    sign = -1 if swapped else 1

    def serve(seed: int, _steps: int, split: Any) -> tuple[float, ...]:
        (kind,) = [kind for kind, one in serving_modes.REQUESTS.items() if one is split]
        return tuple(sign * value + noise(seed) for value in served.get(kind, (0.1, 0.5, 0.2)))

    return {"serve": serve}


PLANTED: dict[
    str, tuple[ModuleType, Callable[[bool], Fakes], Callable[[], ExperimentResult], list[float], list[float]]
] = {
    "layer-inputs": (layer_inputs, layer_inputs_fakes, lambda: layer_inputs.run(SEEDS, 3), [0.3, 0.5], [-0.3, -0.5]),
    "convergence": (
        convergence,
        convergence_fakes,
        lambda: convergence.run(SEEDS, 300, (0.03, 0.1)),
        [30, 25],
        [-30, -25],
    ),
    "learning-rates": (
        ranges,
        rate_fakes,
        lambda: ranges.run_rates(SEEDS, 2, (0.01, 0.1, 1.0, 10.0)),
        [2, 2],
        [-2, -2],
    ),
    "initial-weights": (ranges, scale_fakes, lambda: ranges.run_scales(SEEDS, 2, (0.1, 1.0, 10.0)), [2], [-2]),
    "regularisation": (
        regularisation,
        regularisation_fakes,
        lambda: regularisation.run(SEEDS, 2),
        [0.3, 0.15, np.log(0.99 / 0.6), 0.25, 0.2],
        [-0.3, -0.15, -np.log(0.99 / 0.6), -0.25, -0.2],
    ),
    "generalisation": (
        generalisation,
        generalisation_fakes,
        lambda: generalisation.run(SEEDS, 2, (70, 100)),
        [0.1, 0.2, 0.1],
        [-0.1, -0.2, -0.1],
    ),
    "batch-sizes": (
        batch_sizes,
        batch_size_fakes,
        lambda: batch_sizes.run(SEEDS, 2, (2, 32)),
        [0.4, 0.3, 0.2],
        [-0.3, -0.3, -0.2],
    ),
    "serving-modes": (
        serving_modes,
        serving_fakes,
        lambda: serving_modes.run(SEEDS, 2),
        [0.5, 0.5, 0.6],
        [-0.5, -0.5, -0.6],
    ),
}


@pytest.mark.parametrize("swapped", [False, True], ids=["as claimed", "the other way"])
@pytest.mark.parametrize("name", PLANTED)
def test_checks_find_a_planted_difference_with_its_sign(
    name: str, swapped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, fakes, run, as_claimed, other_way = PLANTED[name]
    monkeypatch.setattr(module, "draw", lambda _: b"")
    for function, fake in fakes(swapped).items():
        monkeypatch.setattr(module, function, fake)
    found = run()
    assert found.name == name
    expected = other_way if swapped else as_claimed
    assert [check.estimate.mean for check in found.checks] == pytest.approx(expected, abs=1e-6)
    verdict = Verdict.CONTRADICTED if swapped else Verdict.SUPPORTED
    assert {check.verdict for check in found.checks} == {verdict}
    mirrored = [dataclasses.replace(check, differences=tuple(-d for d in check.differences)) for check in found.checks]
    assert {check.verdict for check in mirrored} == {Verdict.SUPPORTED if swapped else Verdict.CONTRADICTED}


WITH, WITHOUT = VARIANTS

RANGES = {
    # Of one seed: accuracies at 1, 10, 100, 1000; differences of the ranges' widths, and of their ends, in decades.
    "wider above": ([0.95, 0.95, 0.95, 0.2], [0.95, 0.2, 0.2, 0.2], 2, 2),
    "wider below alone": ([0.95, 0.95, 0.95, 0.2], [0.2, 0.2, 0.95, 0.2], 2, 0),
    "as wide, and higher": ([0.2, 0.2, 0.95, 0.95], [0.95, 0.95, 0.2, 0.2], 0, 2),
    "narrower, and lower": ([0.2, 0.95, 0.2, 0.2], [0.95, 0.95, 0.95, 0.2], -2, -1),
    "the line itself trains": ([0.9, 0.9, 0.2, 0.2], [0.9, 0.8999, 0.2, 0.2], 1, 1),
    "with it none trains": ([0.2, 0.2, 0.2, 0.2], [0.95, 0.2, 0.2, 0.2], -1, np.nan),
    "without it none trains": ([0.95, 0.2, 0.2, 0.2], [0.2, 0.2, 0.2, 0.2], 1, np.nan),
}


@pytest.mark.parametrize("kind", RANGES)
def test_ranges_are_compared_with_minus_without_batchnorm(kind: str) -> None:
    with_batchnorm, without, wider, higher = RANGES[kind]
    points = (1.0, 10.0, 100.0, 1000.0)
    found = {WITHOUT: [without, without], WITH: [with_batchnorm, with_batchnorm]}
    assert ranges._wider(found, points) == pytest.approx((wider, wider))
    assert ranges._higher(found, points) == pytest.approx((higher, higher), nan_ok=True)


def test_ranges_are_in_decades_for_any_spacing() -> None:
    points = tuple(10 ** (third / 3) for third in range(4))
    found = {WITH: [[0.95, 0.95, 0.95, 0.95]], WITHOUT: [[0.95, 0.2, 0.2, 0.2]]}
    assert ranges._wider(found, points) == pytest.approx((1.0,))
    assert ranges._higher(found, points) == pytest.approx((1.0,))
