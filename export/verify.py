"""The proof of a fold: original and folded run on the same inputs, and compared with the network's own noise.

How far two outputs may differ, and what noise is, stands in `export.difference`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from export.constants import FLOATS
from export.difference import OutputDifference, measure
from export.errors import ModelFileError, VerificationError
from export.feeds import FREE_SIZES, moved_by_one_ulp, next_float, random_feeds, read_feeds
from export.onnx_file import load_model, save_model
from export.rows import rows_are_independent
from export.runner import Engine, Feeds, Runner, Tensor

SEEDS = 4


@dataclass(frozen=True)
class Verification:
    """The difference of each output, whether a server may batch the rows of different requests, and what ran both."""

    outputs: dict[str, OutputDifference]
    batchable: bool
    engine: Engine

    @property
    def passes(self) -> bool:
        """Whether every output's error is allowed."""
        return all(difference.passes for difference in self.outputs.values())

    def require(self) -> None:
        """Raise if an output differs by more than is allowed.

        Raises:
            VerificationError: naming the output that exceeds its allowance most.
        """
        if not self.passes:
            name, worst = max(self.outputs.items(), key=lambda item: _excess(item[1]))
            raise VerificationError(name, worst.error, worst.allowed)


def verify(
    original: Path,
    folded: Path,
    inputs: Path | None = None,
    seeds: int = SEEDS,
    progress: Callable[[int, int], None] | None = None,
) -> Verification:
    """Compare two models on the same inputs.

    Args:
        original: the model that is right.
        folded: the model to prove.
        inputs: an .npz file with one array for each input; random inputs without it.
        seeds: number of random inputs, and of ways to move them; at least 4 for a median worth the name.
        progress: called with the number of seeds done and their total.

    Returns:
        The difference of each output; whether it is allowed is the caller's to ask (`passes`, `require`).

    Raises:
        ModelFileError: a model cannot be read or run, or the two differ in their inputs or outputs.
        FeedError: no inputs can be made, or those given do not fit.
    """
    first = Runner(original)
    second = Runner(folded, first.engine)
    _require_same_ports(first, second)
    all_feeds = _make_feeds(first, inputs, seeds)
    with tempfile.TemporaryDirectory() as folder:
        moved = _moved_run(first, Path(folder))
        wanted, got, disturbed = [], [], []
        for seed, feeds in enumerate(all_feeds):
            wanted.append(first.run(feeds))
            got.append(second.run(feeds))
            disturbed.append(moved(feeds, seed))
            if progress is not None:
                progress(seed + 1, seeds)
    outputs = {
        port.name: measure(*([run[port.name] for run in runs] for runs in (wanted, got, disturbed)))
        for port in first.outputs
    }
    return Verification(outputs, rows_are_independent(first, all_feeds[0], wanted[0], outputs), first.engine)


def _make_feeds(runner: Runner, inputs: Path | None, seeds: int) -> list[Feeds]:
    """Return feeds for every seed; random ones of the smallest free size that the model runs with."""
    if inputs is not None:
        return [read_feeds(inputs, runner.inputs)] * seeds
    for free_size in FREE_SIZES:
        feeds = [random_feeds(runner.inputs, free_size, seed) for seed in range(seeds)]
        try:
            runner.run(feeds[0])
        except ModelFileError:
            if free_size == FREE_SIZES[-1]:
                raise
        else:
            break
    return feeds


def _moved_run(runner: Runner, folder: Path) -> Callable[[Feeds, int], dict[str, Tensor]]:
    """Return a function that runs the model a little moved: its float inputs, or without any, its float weights."""
    if any(port.dtype.is_floating_point() for port in runner.inputs):
        return lambda feeds, seed: runner.run(moved_by_one_ulp(feeds, seed))

    def run_with_moved_weights(feeds: Feeds, seed: int) -> dict[str, Tensor]:
        model, path = load_model(runner.path), folder / "moved.onnx"
        rng = np.random.default_rng(seed)
        for value in model.graph.initializers.values():
            tensor = value.const_value
            if tensor is not None and tensor.dtype in FLOATS:
                value.const_value = ir.Tensor(next_float(tensor.numpy(), rng), name=value.name)
        save_model(model, path)
        return Runner(path, runner.engine).run(feeds)

    return run_with_moved_weights


def _require_same_ports(first: Runner, second: Runner) -> None:
    for what in ("inputs", "outputs"):
        ours, theirs = (
            {port.name: (port.dtype.name, len(port.shape)) for port in getattr(runner, what)}
            for runner in (first, second)
        )
        if ours != theirs:
            raise ModelFileError(second.path, f"has other {what} than {str(first.path)!r}: {theirs}, not {ours}.")


def _excess(difference: OutputDifference) -> float:
    ratio = difference.error / difference.allowed
    return float("inf") if np.isnan(ratio) else ratio
