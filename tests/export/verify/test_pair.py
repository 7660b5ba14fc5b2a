"""An input whose error is too large is perturbed more often: a rare jump is noise, a wrong fold is not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import pytest

from normfold.contract.progress import ignore_progress
from normfold.export.verify.pair import Pair, Run
from normfold.export.verify.perturbed_runs import (
    MAX_PERTURBATIONS,
    PERTURBATIONS,
    PerturbedInputs,
    PerturbedWeights,
    perturbations_of,
)
from normfold.export.verify.runner import Inputs, Outputs, Runner
from normfold.export.verify.tolerance import NOISE_FACTOR, SHARE_OF_MAXIMUM, noise_of
from tests.support.onnx_models import small_convnet

JUMP = 0.4
"""Of the range, where other perturbations move it by 1e-6."""


@dataclass(frozen=True)
class Jumping:
    """A stand-in for perturbed runs: small movements, and a jump at one seed, or at none."""

    seed: int | None
    share: float = 1.0
    is_needed: bool = True
    runs: list[int] = field(default_factory=list)

    def run(self, inputs: Inputs, seed: int) -> Outputs:
        """Return the input, moved."""
        self.runs.append(seed)
        return {"y": inputs["x"] + np.float32(JUMP if seed == self.seed else 1e-6)}


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    """Give a network of one output."""
    onnx.save(small_convnet(np.random.default_rng(0)), tmp_path / "a.onnx")
    return Runner(tmp_path / "a.onnx")


Passes = Callable[[float, "list[Jumping]"], bool]


@pytest.fixture
def passes(runner: Runner) -> Passes:
    """Give a function that says whether two inputs pass, at the second of which the folded output is wrong."""

    def run(error: float, perturbations: list[Jumping]) -> bool:
        pair = Pair(runner, runner, lambda given: given, perturbations, ignore_progress)
        x = np.linspace(0, 1, 5, dtype=np.float32)
        runs = []
        for wrong in (0.0, error):
            seeds = range(PERTURBATIONS)
            perturbed = [
                [each.run({"x": x}, seed) for seed in seeds] if each.is_needed else [] for each in perturbations
            ]
            runs.append(Run({"x": x}, {"y": x}, {"y": x + np.float32(wrong)}, perturbed))
        return pair.measure(runs, [])["y"].passes

    return run


def test_jump_that_few_perturbations_show_is_noise(passes: Passes) -> None:
    assert passes(JUMP, [Jumping(seed=9)])
    assert passes(JUMP, [Jumping(seed=None), Jumping(seed=12, share=0.25, is_needed=False)])


def test_error_that_no_perturbation_shows_is_a_difference(passes: Passes) -> None:
    assert not passes(JUMP, [Jumping(seed=None), Jumping(seed=None, share=0.25, is_needed=False)])
    assert not passes(1e-4, [Jumping(seed=None)])


def test_error_of_more_than_twice_the_jump_is_a_difference(passes: Passes) -> None:
    assert NOISE_FACTOR * SHARE_OF_MAXIMUM == 2
    assert passes(1.9 * JUMP, [Jumping(seed=9)])
    assert not passes(2.1 * JUMP, [Jumping(seed=9)])


def test_error_that_is_allowed_takes_no_further_runs(passes: Passes) -> None:
    inputs, weights = Jumping(seed=None), Jumping(seed=None, is_needed=False)

    assert passes(8e-6, [inputs, weights])

    assert inputs.runs == 2 * list(range(PERTURBATIONS))
    assert weights.runs == []


def test_error_that_is_a_difference_takes_a_bounded_number_of_runs_of_one_input(passes: Passes) -> None:
    inputs, weights = Jumping(seed=None), Jumping(seed=None, is_needed=False)

    assert not passes(JUMP, [inputs, weights])

    assert inputs.runs == [*range(PERTURBATIONS), *range(MAX_PERTURBATIONS)]
    assert weights.runs == list(range(MAX_PERTURBATIONS))


def test_noise_is_the_median_or_a_quarter_of_the_maximum() -> None:
    movements = np.array([[1.0, 1.0, 1.0], [2.0, 2.0, 2.0], [3.0, 80.0, np.inf]])

    assert noise_of(movements).tolist() == [2.0, 20.0, 2.0]
    assert noise_of(movements, share=0.25).tolist() == [0.75, 20.0, 0.5]


def test_weights_are_perturbed_beside_the_inputs_and_the_first_models_are_kept(runner: Runner, tmp_path: Path) -> None:
    inputs, weights = perturbations_of(runner, tmp_path)
    given = {"x": np.ones((1, 4, 5, 5), np.float32)}

    assert isinstance(inputs, PerturbedInputs)
    assert isinstance(weights, PerturbedWeights)
    assert (inputs.is_needed, weights.is_needed) == (True, False)
    first, later = weights.run(given, 0), weights.run(given, PERTURBATIONS)
    before = (tmp_path / "0.onnx").stat().st_mtime_ns
    again = weights.run(given, 0)

    assert (tmp_path / "0.onnx").stat().st_mtime_ns == before
    np.testing.assert_array_equal(first["y"], again["y"])
    assert not np.array_equal(first["y"], later["y"])
    np.testing.assert_allclose(first["y"], later["y"], rtol=1e-4, atol=1e-5)
