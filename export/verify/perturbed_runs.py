"""Runs of a model whose inputs or weights are perturbed by one unit in the last place: its rounding noise."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import onnx_ir as ir

from normfold.export.graph.constants import FLOATS
from normfold.export.onnx_io.model_file import load_model, save_model
from normfold.export.verify.inputs import next_float, perturbed_by_one_ulp
from normfold.export.verify.runner import Inputs, Outputs, Runner

PERTURBATIONS = 4
"""Random perturbations of each input to measure the noise."""

MAX_PERTURBATIONS = 16
"""The most for an input where an error exceeds what fewer of them allow."""

SHARE_OF_WEIGHTS = 0.25
"""How much of what perturbed weights move counts as noise, where perturbed inputs show noise too."""


class Perturbation(Protocol):
    """A way to perturb a model."""

    @property
    def share(self) -> float:
        """How much of the typical movement counts as noise."""

    @property
    def is_needed(self) -> bool:
        """Whether every input is run so; if not, only one where an error exceeds what is allowed without it."""

    def run(self, inputs: Inputs, seed: int) -> Outputs:
        """Run the model on an input, perturbed by a seed."""


@dataclass(frozen=True)
class PerturbedInputs:
    """Each element of a float input is perturbed."""

    runner: Runner
    share: float = 1.0
    is_needed: bool = True

    def run(self, inputs: Inputs, seed: int) -> Outputs:
        """Run the model on perturbed inputs."""
        return self.runner.run(perturbed_by_one_ulp(inputs, seed))


@dataclass(frozen=True)
class PerturbedWeights:
    """Each element of a float weight is perturbed. The models of the first seeds are kept for the next input."""

    runner: Runner
    folder: Path
    share: float = 1.0
    is_needed: bool = True
    _kept: dict[int, Runner] = field(default_factory=dict)

    def run(self, inputs: Inputs, seed: int) -> Outputs:
        """Run a model with perturbed weights."""
        runner = self._kept.get(seed) or _with_perturbed_weights(self.runner, self.folder / f"{seed}.onnx", seed)
        if seed < PERTURBATIONS:
            self._kept[seed] = runner
        return runner.run(inputs)


def perturbations_of(runner: Runner, folder: Path) -> list[Perturbation]:
    """Return how a model is perturbed: its float inputs if it has some, and its float weights.

    Args:
        runner: of the model.
        folder: for models with perturbed weights.
    """
    if not any(info.dtype.is_floating_point() for info in runner.inputs):
        return [PerturbedWeights(runner, folder)]
    if runner.rounds_at_once:
        return [PerturbedInputs(runner), PerturbedWeights(runner, folder)]
    return [PerturbedInputs(runner), PerturbedWeights(runner, folder, SHARE_OF_WEIGHTS, is_needed=False)]


def _with_perturbed_weights(runner: Runner, path: Path, seed: int) -> Runner:
    model, rng = load_model(runner.path), np.random.default_rng(seed)
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if tensor is not None and tensor.dtype in FLOATS:
            value.const_value = ir.Tensor(next_float(tensor.numpy(), rng), name=value.name)
    save_model(model, path)
    return Runner(path, runner.engine)
