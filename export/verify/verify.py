"""Verification of a fold: original and folded run on the same inputs, compared beside the network's own noise.

How far two outputs may differ, and what noise is, stands in `export.verify.tolerance` and `export.verify.measure`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx_ir as ir

from normfold.contract.atomic_write import temporary_folder
from normfold.contract.progress import ProgressCallback, ignore_progress
from normfold.export.errors import ModelFileError, VerificationError
from normfold.export.graph.pixels import FromPixels
from normfold.export.verify.batch_independence import rows_are_independent
from normfold.export.verify.channels import MIN_VALUES, values_at_an_index
from normfold.export.verify.choose_inputs import InputMaker, find_constant, find_distributions, find_sizes
from normfold.export.verify.inputs import read_inputs, standardiser
from normfold.export.verify.pair import Pair
from normfold.export.verify.perturbed_runs import perturbations_of
from normfold.export.verify.runner import Engine, Inputs, Outputs, Runner
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
            name, found = max(self.outputs.items(), key=lambda item: _excess(item[1]))
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
    maker = None
    if inputs is None:
        maker = find_sizes(second.inputs, lambda given: first.run(standardise(given)), original)
    given = [read_inputs(inputs, second.inputs)] if inputs is not None else []
    given += [maker.make(seed) for seed in range(seeds)] if maker is not None else []
    with temporary_folder() as folder:
        pair = Pair(first, second, standardise, perturbations_of(first, folder), progress)
        sets = [pair.run(given)]
        run = sets[0][0]
        batchable = rows_are_independent(first, run.given, run.wanted, [group for group in run.perturbed if group])
        wanted = [run.wanted for run in sets[0]]
        constant = find_constant(wanted)
        further: list[Outputs] = []
        if maker is not None:
            distributions = find_distributions(maker, constant, pair.run_original)
            sets += [pair.run([maker.make(seed, each) for seed in range(seeds)]) for each in distributions]
            further = [pair.run_original(one) for one in _further_inputs(maker, wanted)]
        differences = [pair.measure(runs, further) for runs in sets]
    outputs = {
        name: replace(max(_that_say_something(name, differences), key=_excess), is_constant=name in constant)
        for name in wanted[0]
    }
    return Verification(outputs, batchable, first.engine)


def _that_say_something(name: str, differences: Sequence[dict[str, OutputDifference]]) -> list[OutputDifference]:
    """Return the differences of an output: on the usual inputs, and on those others on which its noise has a bound.

    A perturbation of others may change how many values an output has, as NonZero counts a perturbed 0.
    """
    first, *others = (each[name] for each in differences)
    return [first, *(each for each in others if each.error or math.isfinite(each.noise))]


def _excess(difference: OutputDifference) -> float:
    return difference.worst.excess


def _further_inputs(maker: InputMaker, wanted: Sequence[Outputs]) -> Iterator[Inputs]:
    """Yield as many further inputs as the channels of an output need for a range, at most twice as many again."""
    counts = [values_at_an_index([run[name] for run in wanted]) for name in wanted[0]]
    minimum = min((count for count in counts if count), default=MIN_VALUES)
    needed = math.ceil(len(wanted) * MIN_VALUES / minimum)
    yield from (maker.make(seed) for seed in range(len(wanted), min(needed, 3 * len(wanted))))


def _require_same_inputs_and_outputs(first: Runner, second: Runner, takes_pixels: bool) -> None:
    for what in ("inputs", "outputs"):
        ours, theirs = (
            {info.name: (info.dtype.name, info.rank) for info in getattr(runner, what)} for runner in (first, second)
        )
        if what == "inputs" and takes_pixels:
            ours = {name: (ir.DataType.UINT8.name, rank) for name, (_, rank) in ours.items()}
        if ours != theirs:
            hint = " If it takes pixels, give its card." if "UINT8" in str(theirs) and not takes_pixels else ""
            text = f"has other {what} than {str(first.path)!r}: {theirs}, not {ours}.{hint}"
            raise ModelFileError(second.path, text)
