"""The experiments that need only torch, in the report's order; the ninth, on cost, also needs ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from normfold.models.study import (
    batch_sizes,
    convergence,
    generalisation,
    layer_inputs,
    ranges,
    regularisation,
    serving_modes,
)
from normfold.models.study.result import ExperimentResult

STEPS = 300
"""Training steps of each experiment."""

EXPERIMENTS: dict[str, Callable[[Sequence[int], int], ExperimentResult]] = {
    "the inputs of a layer": layer_inputs.run,
    "convergence": convergence.run,
    "learning rates": ranges.run_rates,
    "initial weights": ranges.run_scales,
    "regularisation": regularisation.run,
    "the generalisation gap": generalisation.run,
    "batch sizes": batch_sizes.run,
    "modes at serving time": serving_modes.run,
}
