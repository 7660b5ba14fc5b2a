"""The experiments that need torch alone, in the report's order; the ninth, of cost, needs the other rooms too."""

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
from normfold.models.study.finding import Finding

STEPS = 300
"""Of training, in each experiment."""

EXPERIMENTS: dict[str, Callable[[Sequence[int], int], Finding]] = {
    "the inputs of a layer": layer_inputs.run,
    "convergence": convergence.run,
    "learning rates": ranges.run_rates,
    "initial weights": ranges.run_scales,
    "regularisation": regularisation.run,
    "the generalisation gap": generalisation.run,
    "batch sizes": batch_sizes.run,
    "modes at serving time": serving_modes.run,
}
