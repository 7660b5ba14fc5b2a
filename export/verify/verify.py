"""Verification of a fold: original and folded run on the same inputs, compared beside the network's own noise.

How far two outputs may differ, and what noise is, stands in `export.verify.tolerance` and `export.verify.measure`.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx_ir as ir

from normfold.contract.progress import ProgressCallback, ignore_progress
from normfold.export.errors import ModelFileError, VerificationError
from normfold.export.graph.pixels import FromPixels
from normfold.export.verify.batch_independence import rows_are_independent
from normfold.export.verify.channels import MIN_VALUES, values_at_an_index
from normfold.export.verify.choose_inputs import InputMaker, find_constant, find_distributions, find_sizes
from normfold.export.verify.inputs import read_inputs
from normfold.export.verify.measure import measure
from normfold.export.verify.perturbed_runs import SHARE_OF_WEIGHTS, Perturbation, perturb, perturb_weights
from normfold.export.verify.runner import Engine, Inputs, Outputs, Runner
from normfold.export.verify.standardise import standardiser
from normfold.export.verify.tolerance import ChannelDifference, OutputDifference

SEEDS = 4
"""Random inputs."""


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

    @property
    def notes(self) -> list[str]:
        """Return a sentence for each output that proves nothing, as the original gave the same for every input."""
        return [
            f"Output {name!r} was constant: it was the same for every input that was tried, so its comparison says "
            "little about the layers before it."
            for name, difference in self.outputs.items()
            if difference.is_constant
        ]

    def require(self) -> None:
        """Raise if an output differs by more than is allowed.

        Raises:
            VerificationError: naming the output that exceeds the allowed error most, and the channel if one does.
        """
        if not self.passes:
            name, found = max(self.outputs.items(), key=lambda item: item[1].worst.excess)
            worst = found.worst
            channel = (worst.axis, worst.index) if isinstance(worst, ChannelDifference) else None
            raise VerificationError(name, worst.error, worst.allowed, channel)


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
    standardise = standardiser(first, pixels)
    _require_same_inputs_and_outputs(first, second, takes_pixels=pixels is not None)
    maker = None if inputs is not None else find_sizes(second.inputs, lambda given: first.run(standardise(given)))
    given = [read_inputs(inputs, second.inputs)] if inputs is not None else []
    given += [maker.make(seed) for seed in range(seeds)] if maker is not None else []
    with tempfile.TemporaryDirectory() as folder:
        perturbations = perturb(first, Path(folder))
        pair = _Pair(first, second, standardise, perturbations, progress)
        runs = [pair.run(given)]
        constant = find_constant(runs[0].wanted)
        further: list[Outputs] = []
        if maker is not None:
            distributions = find_distributions(maker, constant, pair.run_original)
            runs += [pair.run([maker.make(seed, each) for seed in range(seeds)]) for each in distributions]
            further = [pair.run_original(one) for one in _further_inputs(maker, runs[0].wanted)]
        outputs = pair.measure(runs, further)
        batchable = rows_are_independent(first, standardise(given[0]), runs[0].wanted[0], runs[0].perturbed[0])
        if not all(found.passes for found in outputs.values()) and not any(each.of_weights for each in perturbations):
            perturbations.append(perturb_weights(first, Path(folder), SHARE_OF_WEIGHTS))
            for each in runs:
                pair.perturb(each, perturbations[-1])
            outputs = pair.measure(runs, further)
    outputs = {name: replace(found, is_constant=name in constant) for name, found in outputs.items()}
    return Verification(outputs, batchable, first.engine)


@dataclass(frozen=True)
class _Runs:
    """What both models gave for each of a set of inputs, and the original for each, perturbed."""

    inputs: list[Inputs]
    wanted: list[Outputs]
    got: list[Outputs]
    perturbed: list[list[list[Outputs]]]


@dataclass(frozen=True)
class _Pair:
    """Both models, and the ways in which the original is perturbed."""

    first: Runner
    second: Runner
    standardise: Callable[[Inputs], Inputs]
    perturbations: list[Perturbation]
    progress: ProgressCallback

    def run_original(self, given: Inputs) -> Outputs:
        """Run the original on what the folded model takes."""
        return self.first.run(self.standardise(given))

    def run(self, given: Sequence[Inputs]) -> _Runs:
        """Run both models on a set of inputs."""
        runs = _Runs([], [], [], [])
        for number, one in enumerate(given, start=1):
            self.progress(f"verifying: input {number} of {len(given)}")
            original = self.standardise(one)
            runs.inputs.append(original)
            runs.wanted.append(self.first.run(original))
            runs.got.append(self.second.run(one))
            runs.perturbed.append([[run(original) for run in each.runs] for each in self.perturbations])
        return runs

    def perturb(self, runs: _Runs, perturbation: Perturbation) -> None:
        """Add the runs of a further perturbation."""
        for number, (given, groups) in enumerate(zip(runs.inputs, runs.perturbed, strict=True), start=1):
            self.progress(f"verifying: input {number} of {len(runs.inputs)}, weights perturbed")
            groups.append([run(given) for run in perturbation.runs])

    def measure(self, sets: Sequence[_Runs], further: Sequence[Outputs]) -> dict[str, OutputDifference]:
        """Return the difference of each output, on the set of inputs where its error exceeds the allowed error most.

        `further` holds the original's outputs for more inputs.
        """
        shares = [each.share for each in self.perturbations]
        return {
            name: max(
                (
                    measure(
                        [run[name] for run in runs.wanted],
                        [run[name] for run in runs.got],
                        [[[run[name] for run in group] for group in groups] for groups in runs.perturbed],
                        shares,
                        [run[name] for run in further],
                        has_steps=self.first.has_steps,
                    )
                    for runs in sets
                ),
                key=lambda found: found.worst.excess,
            )
            for name in (info.name for info in self.first.outputs)
        }


def _further_inputs(maker: InputMaker, wanted: Sequence[Outputs]) -> Iterator[Inputs]:
    """Yield as many further inputs as the channels of an output need for a range, at most twice as many again."""
    counts = [values_at_an_index([run[name] for run in wanted]) for name in wanted[0]]
    minimum = min((count for count in counts if count), default=MIN_VALUES)
    needed = math.ceil(len(wanted) * MIN_VALUES / minimum)
    yield from (maker.make(seed) for seed in range(len(wanted), min(needed, 3 * len(wanted))))


def _require_same_inputs_and_outputs(first: Runner, second: Runner, takes_pixels: bool) -> None:
    for what in ("inputs", "outputs"):
        ours, theirs = (
            {info.name: (info.dtype.name, len(info.shape)) for info in getattr(runner, what)}
            for runner in (first, second)
        )
        if what == "inputs" and takes_pixels:
            ours = {name: (ir.DataType.UINT8.name, rank) for name, (_, rank) in ours.items()}
        if ours != theirs:
            hint = " If it takes pixels, give its card." if "UINT8" in str(theirs) and not takes_pixels else ""
            text = f"has other {what} than {str(first.path)!r}: {theirs}, not {ours}.{hint}"
            raise ModelFileError(second.path, text)
