"""Runs of a model whose inputs or weights are perturbed by one unit in the last place: its rounding noise."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import onnx_ir as ir

from normfold.export.graph.constants import FLOATS
from normfold.export.graph.inference import infer_shapes
from normfold.export.graph.nodes import all_nodes
from normfold.export.onnx_io.model_file import load_model, save_model
from normfold.export.verify.inputs import next_float, perturbed_by_one_ulp
from normfold.export.verify.runner import Inputs, Outputs, Runner
from normfold.export.verify.tolerance import EPSILONS

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
    """Each element of a float weight is perturbed, and of each value that is cast to a narrower float.

    The models of the first seeds are kept for the next input.
    """

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
    infer_shapes(model)
    for number, node in enumerate([node for node in all_nodes(model.graph) if _narrows(node)]):
        _perturb_before(node, number, seed)
    save_model(model, path)
    return Runner(path, runner.engine)


def _narrows(node: ir.Node) -> bool:
    """Return whether a node casts float32 or float64 to a narrower float."""
    value = node.inputs[0] if node.op_type == "Cast" and node.domain == "" else None
    if value is None or value.dtype not in (ir.DataType.FLOAT, ir.DataType.DOUBLE):
        return False
    to = ir.DataType(node.attributes.get_int("to", 0))
    return to in FLOATS and to.bitwidth < value.dtype.bitwidth


def _perturb_before(node: ir.Node, number: int, seed: int) -> None:
    """Multiply what a Cast reads by random factors that differ from 1 by at most one unit in the last place after it.

    A Cast to a narrower float removes a perturbation of one unit in the last place before it.
    """
    value, to = node.inputs[0], ir.DataType(node.attributes.get_int("to", 0))
    assert value is not None
    assert node.graph is not None
    unit = EPSILONS[to.numpy().name]
    drawn = {"low": 1.0 - unit, "high": 1.0 + unit, "seed": float(1000 * seed + number)}
    factors = ir.node("RandomUniformLike", [value], drawn, name=f"factors.{number}.perturbed")
    product = ir.node("Mul", [value, factors.outputs[0]], name=f"product.{number}.perturbed")
    for made in (factors, product):
        made.outputs[0].name = f"{made.name}.value"
    node.graph.insert_before(node, [factors, product])
    node.replace_input_with(0, product.outputs[0])
