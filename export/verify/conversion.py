"""A file whose opset was converted when it was read, compared with the file itself by onnx's reference evaluator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from normfold.contract.atomic_write import temporary_folder
from normfold.export.arrays import Tensor
from normfold.export.errors import ModelFileError
from normfold.export.onnx_io.model_file import OPSET_IN_FILE, load_model, save_model
from normfold.export.verify.choose_inputs import find_sizes
from normfold.export.verify.runner import Engine, Inputs, Runner

_ALLOWED_ERROR = 1e-5
"""Of an output's largest magnitude: conversion changes how arithmetic is written, and what is rounded hardly."""


def compare_conversion(path: Path) -> str | None:
    """Compare a file of an old opset with what it is converted to, on one random input.

    Args:
        path: of the file.

    Returns:
        A sentence on what a folded model's equality holds for; None for a file that was not converted.

    Raises:
        ModelFileError: both can be run, and give different outputs.
    """
    model = load_model(path)
    opset = model.meta.get(OPSET_IN_FILE)
    if opset is None:
        return None
    with temporary_folder() as folder:
        converted = folder / "converted.onnx"
        save_model(model, converted)
        runner = Runner(converted, Engine.REFERENCE)
        inputs = find_sizes(runner.inputs, runner.run, converted).make(seed=0)
        wanted = _run(path, inputs)
        if wanted is None:
            return (
                f"onnx's reference evaluator cannot run the file in opset {opset}: the folded model was found equal to "
                "the converted file, not to the source."
            )
        got = runner.run(inputs)
    for (name, result), expected in zip(got.items(), wanted, strict=True):
        if not _equal(expected, result):
            text = f"has opset {opset}, and gives another output {name!r} when it is converted, by onnx's reference"
            raise ModelFileError(path, f"{text} evaluator; convert it by other means.")
    return f"The converted file gives what the source of opset {opset} gives, by onnx's reference evaluator."


def _run(path: Path, inputs: Inputs) -> list[Tensor] | None:
    """Return the outputs of a file of an old opset; None where the evaluator does not know an operator of it."""
    try:
        proto = onnx.load(path)
        defaults = {tensor.name for tensor in proto.graph.initializer}
        kept = [value for value in proto.graph.input if value.name not in defaults]
        del proto.graph.input[:]
        proto.graph.input.extend(kept)
        evaluator: Any = ReferenceEvaluator(proto)
        return [np.asarray(result) for result in evaluator.run(None, dict(inputs))]
    except Exception:  # noqa: BLE001 -- it raises many kinds for what it does not know
        return None


def _equal(wanted: Tensor, got: Tensor) -> bool:
    if wanted.shape != got.shape or wanted.dtype != got.dtype:
        return False
    if wanted.dtype.kind != "f":
        return bool(np.array_equal(wanted, got))
    scale = float(np.abs(wanted).max(initial=0.0))
    return bool(np.allclose(wanted, got, rtol=0, atol=_ALLOWED_ERROR * scale, equal_nan=True))
