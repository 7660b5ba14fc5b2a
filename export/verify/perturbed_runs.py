"""Runs of a model whose inputs or weights are perturbed by one unit in the last place: its rounding noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnx_ir as ir

from normfold.export.graph.constants import FLOATS
from normfold.export.onnx_io.model_file import load_model, save_model
from normfold.export.verify.inputs import next_float, perturbed_by_one_ulp
from normfold.export.verify.runner import Inputs, Outputs, Runner

PERTURBATIONS = 4
"""Random perturbations of each input to measure the noise."""

SHARE_OF_WEIGHTS = 0.25
"""How much of what perturbed weights move counts as noise, where perturbed inputs show noise too."""


@dataclass(frozen=True)
class Perturbation:
    """A way to perturb a model: functions that run it so, and how much of what they move counts as noise."""

    runs: list[Callable[[Inputs], Outputs]]
    share: float = 1.0
    of_weights: bool = False


def perturb(runner: Runner, folder: Path) -> list[Perturbation]:
    """Return how a model is perturbed: its float inputs, its float weights if need be, or both.

    Args:
        runner: of the model.
        folder: for models with perturbed weights.
    """
    found = []
    if any(info.dtype.is_floating_point() for info in runner.inputs):
        found.append(Perturbation([partial(_run_perturbed, runner, seed=seed) for seed in range(PERTURBATIONS)]))
    if not found or runner.rounds_at_once:
        found.append(perturb_weights(runner, folder))
    return found


def perturb_weights(runner: Runner, folder: Path, share: float = 1.0) -> Perturbation:
    """Return how the weights of a model are perturbed."""
    paths = [folder / f"{seed}.onnx" for seed in range(PERTURBATIONS)]
    return Perturbation(
        [_with_perturbed_weights(runner, path, seed).run for seed, path in enumerate(paths)], share, True
    )


def _run_perturbed(runner: Runner, inputs: Inputs, seed: int) -> Outputs:
    return runner.run(perturbed_by_one_ulp(inputs, seed))


def _with_perturbed_weights(runner: Runner, path: Path, seed: int) -> Runner:
    model, rng = load_model(runner.path), np.random.default_rng(seed)
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if tensor is not None and tensor.dtype in FLOATS:
            value.const_value = ir.Tensor(next_float(tensor.numpy(), rng), name=value.name)
    save_model(model, path)
    return Runner(path, runner.engine)
