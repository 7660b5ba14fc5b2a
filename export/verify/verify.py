"""Verification of a fold: original and folded run on the same inputs, compared beside the network's own noise.

How far two outputs may differ, and what noise is, stands in `export.verify.tolerance`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnx_ir as ir

from normfold.contract.progress import ProgressCallback, ignore_progress
from normfold.export.arrays import Tensor
from normfold.export.errors import ModelFileError, VerificationError
from normfold.export.graph.constants import FLOATS
from normfold.export.graph.pixels import FromPixels, Pixels
from normfold.export.onnx_io.model_file import load_model, save_model
from normfold.export.verify.batch_independence import rows_are_independent
from normfold.export.verify.inputs import FREE_SIZES, next_float, perturbed_by_one_ulp, random_inputs, read_inputs
from normfold.export.verify.runner import Engine, Inputs, Runner, ValueInfo
from normfold.export.verify.tolerance import OutputDifference, measure

SEEDS = 4
"""Random inputs."""

PERTURBATIONS = 4
"""Random perturbations of each input to measure the noise."""


@dataclass(frozen=True)
class Verification:
    """The difference of each output, whether a server may batch the rows of different requests, and what ran both."""

    outputs: dict[str, OutputDifference]
    batchable: bool
    engine: Engine

    @property
    def passes(self) -> bool:
        """Return whether every output's error is allowed."""
        return all(difference.passes for difference in self.outputs.values())

    def require(self) -> None:
        """Raise if an output differs by more than is allowed.

        Raises:
            VerificationError: naming the output that exceeds its allowance most.
        """
        if not self.passes:
            name, worst = max(self.outputs.items(), key=lambda item: item[1].excess)
            raise VerificationError(name, worst.error, worst.allowed)


def verify(
    original: Path,
    folded: Path,
    inputs: Path | None = None,
    seeds: int = SEEDS,
    progress: ProgressCallback = ignore_progress,
    pixels: FromPixels | None = None,
) -> Verification:
    """Compare two models on the same inputs.

    Args:
        original: the model that is right.
        folded: the model to verify.
        inputs: an .npz file with one array for each input; random inputs without it.
        seeds: number of random inputs.
        progress: called with each input as its runs begin.
        pixels: the folded model takes 8-bit pixels; the original gets them standardised.

    Returns:
        The difference of each output; `passes` and `require` say whether it is allowed.

    Raises:
        ModelFileError: a model cannot be read or run, or the two differ in their inputs or outputs.
        ModelInputError: no inputs can be made, or those given do not fit.
    """
    first = Runner(original)
    second = Runner(folded, first.engine)
    standardise = partial(_standardise, first, pixels) if pixels is not None else _unchanged
    _require_same_inputs_and_outputs(first, second, takes_pixels=pixels is not None)
    all_inputs = _make_inputs(second.inputs, inputs, seeds, lambda given: first.run(standardise(given)))
    originals = [standardise(given) for given in all_inputs]
    with tempfile.TemporaryDirectory() as folder:
        perturbed_runs = _perturbed_runs(first, Path(folder))
        wanted, got, perturbed = [], [], []
        for number, (given, folded_given) in enumerate(zip(originals, all_inputs, strict=True), start=1):
            progress(f"verifying: input {number} of {len(all_inputs)}")
            wanted.append(first.run(given))
            got.append(second.run(folded_given))
            perturbed.append([[run(given) for run in group] for group in perturbed_runs])
    outputs = {
        name: measure(
            [run[name] for run in wanted],
            [run[name] for run in got],
            [[[run[name] for run in group] for group in groups] for groups in perturbed],
        )
        for name in (info.name for info in first.outputs)
    }
    return Verification(outputs, rows_are_independent(first, originals[0], wanted[0], perturbed[0]), first.engine)


def _make_inputs(
    infos: Sequence[ValueInfo], path: Path | None, seeds: int, run: Callable[[Inputs], object]
) -> list[Inputs]:
    """Return the inputs of a file, or random ones of sizes that the original runs with.

    Free axes get the smallest size that works in every second set of inputs. In the others they get larger sizes,
    different from each other, if these work too: what holds for one size alone is not equality.
    """
    if path is not None:
        return [read_inputs(path, infos)]
    for free_size in FREE_SIZES:
        try:
            run(random_inputs(infos, free_size, seed=0))
        except ModelFileError as error:
            if free_size == FREE_SIZES[-1]:
                text = f"{error.problem} (on random inputs; give some that suit it with --inputs)"
                raise ModelFileError(error.path, text) from None
        else:
            break
    step = free_size
    try:
        run(random_inputs(infos, free_size, seed=0, step=step))
    except ModelFileError:
        step = 0
    return [random_inputs(infos, free_size, seed, step * (seed % 2)) for seed in range(seeds)]


def _perturbed_runs(runner: Runner, folder: Path) -> list[list[Callable[[Inputs], dict[str, Tensor]]]]:
    """Return functions that run the model with float inputs, float weights if needed, or both perturbed by one ulp."""
    groups: list[list[Callable[[Inputs], dict[str, Tensor]]]] = []
    if any(info.dtype.is_floating_point() for info in runner.inputs):
        groups.append([partial(_run_perturbed, runner, seed=seed) for seed in range(PERTURBATIONS)])
    if not groups or runner.rounds_at_once:
        groups.append(
            [_with_perturbed_weights(runner, folder / f"{seed}.onnx", seed).run for seed in range(PERTURBATIONS)]
        )
    return groups


def _run_perturbed(runner: Runner, inputs: Inputs, seed: int) -> dict[str, Tensor]:
    return runner.run(perturbed_by_one_ulp(inputs, seed))


def _with_perturbed_weights(runner: Runner, path: Path, seed: int) -> Runner:
    model, rng = load_model(runner.path), np.random.default_rng(seed)
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if tensor is not None and tensor.dtype in FLOATS:
            value.const_value = ir.Tensor(next_float(tensor.numpy(), rng), name=value.name)
    save_model(model, path)
    return Runner(path, runner.engine)


def _require_same_inputs_and_outputs(first: Runner, second: Runner, takes_pixels: bool) -> None:
    for what in ("inputs", "outputs"):
        ours, theirs = (
            {info.name: (info.dtype.name, len(info.shape)) for info in getattr(runner, what)}
            for runner in (first, second)
        )
        if what == "inputs" and takes_pixels:
            ours = {name: (ir.DataType.UINT8.name, rank) for name, (_, rank) in ours.items()}
        if ours != theirs:
            hint = (
                " If it takes pixels, give the card with --card." if "UINT8" in str(theirs) and not takes_pixels else ""
            )
            text = f"has other {what} than {str(first.path)!r}: {theirs}, not {ours}.{hint}"
            raise ModelFileError(second.path, text)


def _standardise(runner: Runner, pixels: FromPixels, inputs: Inputs) -> Inputs:
    """Return what the original takes for a picture of pixels."""
    standard = Pixels.of(pixels.preprocessing)
    return {info.name: standard.standardised(inputs[info.name], info.dtype) for info in runner.inputs}


def _unchanged(inputs: Inputs) -> Inputs:
    return inputs
