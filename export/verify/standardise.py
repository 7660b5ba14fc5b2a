"""What the original takes, where the folded model takes 8-bit pixels."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from normfold.export.graph.pixels import FromPixels, Pixels
from normfold.export.verify.runner import Inputs, Runner


def standardiser(original: Runner, pixels: FromPixels | None) -> Callable[[Inputs], Inputs]:
    """Return a function from the folded model's inputs to the original's: these standardised where they are pixels."""
    return _unchanged if pixels is None else partial(_standardise, original, pixels)


def _standardise(runner: Runner, pixels: FromPixels, inputs: Inputs) -> Inputs:
    standard = Pixels.of(pixels.preprocessing)
    return {info.name: standard.standardised(inputs[info.name], info.dtype) for info in runner.inputs}


def _unchanged(inputs: Inputs) -> Inputs:
    return inputs
