"""The fixture that inspects and folds a model of onnx's backend tests, and compares the folded file with its source."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx.reference import ReferenceEvaluator

import normfold
from normfold.errors import FoldError, NormfoldError
from normfold.export.arrays import is_float
from normfold.export.files import fold_file
from normfold.export.verify.inputs import perturbed_by_one_ulp
from normfold.export.verify.measure import measure
from tests.support.onnx_models import BatchNormalization

PERTURBATIONS = 4
NOT_RUN = "folded; neither ONNX Runtime nor onnx's reference evaluator runs the source"
NOT_REPEATABLE = "folded; the source gives other outputs at each run"
COMPARED = "folded, outputs compared"

Run = Callable[[Sequence[Any]], list[Any]]


@pytest.fixture
def outcome(tmp_path: Path) -> Callable[[onnx.ModelProto, Sequence[Sequence[Any]]], str]:
    """Return a function that takes a model and the inputs of each of its runs, in the graph's order.

    It returns what happened, in a few words, and raises whatever is a fault. The two files stay in `tmp_path`.
    """
    return partial(_outcome, tmp_path / "source.onnx", tmp_path / "folded.onnx")


def _outcome(source: Path, target: Path, model: onnx.ModelProto, rows: Sequence[Sequence[Any]]) -> str:
    target.unlink(missing_ok=True)
    onnx.save(model, source)
    rejections = []
    for command in (
        partial(normfold.inspect, source, verify=False),
        partial(fold_file.fold_file, source, target, verified=False),
    ):
        try:
            command()
        except FoldError:  # a fault of the fold itself
            raise
        except NormfoldError as error:
            rejections.append(str(error))
    if not rejections:
        return _compare(source, target, rows)
    assert not target.exists()
    assert len(rejections) == 2, f"only one of inspect and fold rejects: {rejections}"
    assert rejections[0] == rejections[1]
    assert "\n" not in rejections[0]
    return "rejected: " + re.sub("'[^']*'", "…", rejections[0])


def _compare(source: Path, target: Path, rows: Sequence[Sequence[Any]]) -> str:
    """Check that a folded file's outputs are those of its source, or differ by no more than verification allows."""
    for start in (_start_onnxruntime, _start_reference):
        try:
            before = start(source)
            wanted = [before(row) for row in rows]
        except Exception:  # noqa: BLE001 -- both raise many kinds for a model that they do not know
            continue
        after = start(target)
        break
    else:
        return NOT_RUN
    for row, outputs in zip(rows, wanted, strict=True):
        got = after(row)
        differing = [place for place, output in enumerate(outputs) if not _same(output, got[place])]
        if not differing:
            continue
        if not all(map(_same, outputs, before(row))):
            return NOT_REPEATABLE
        perturbed = [before(_perturbed(row, seed)) for seed in range(PERTURBATIONS)]
        for place in differing:
            output = outputs[place]
            assert isinstance(output, np.ndarray), f"output {place} is not the same"
            assert is_float(output) and output.dtype.itemsize > 1, f"output {place} is not the same"  # noqa: PT018
            difference = measure([output], [got[place]], [[[run[place] for run in perturbed]]])
            assert difference.passes, f"output {place} differs by {difference.error:.3g}: over {difference.allowed:.3g}"
    return COMPARED


def _start_onnxruntime(path: Path) -> Run:
    """Return a function that runs a model in ONNX Runtime, as it is written."""
    model = onnx.load(path)
    needed = onnx.helper.find_min_ir_version_for(list(model.opset_import), ignore_unknown=True)
    model.ir_version = min(model.ir_version, max(needed, 10))  # onnx writes newer ones than ONNX Runtime reads
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [port.name for port in session.get_inputs()]
    return lambda row: list(session.run(None, dict(zip(names, row, strict=False))))


def _start_reference(path: Path) -> Run:
    """Return a function that runs a model in onnx's reference evaluator."""
    evaluator = ReferenceEvaluator(str(path), new_ops=[BatchNormalization])
    return lambda row: list(evaluator.run(None, dict(zip(evaluator.input_names, row, strict=False))))


def _perturbed(row: Sequence[Any], seed: int) -> list[Any]:
    """Return inputs with every float perturbed by one unit in the last place."""
    arrays = {str(place): value for place, value in enumerate(row) if isinstance(value, np.ndarray)}
    perturbed = perturbed_by_one_ulp(arrays, seed)
    return [perturbed.get(str(place), value) for place, value in enumerate(row)]


def _same(one: Any, other: Any) -> bool:
    """Return whether two outputs are equal to the last bit: tensors, lists of tensors, or None."""
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(_same, one, other))
    if not isinstance(one, np.ndarray) or one.dtype.kind == "O":
        return bool(np.array_equal(one, other))
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return one.tobytes() == other.tobytes() or (one.dtype.kind == "f" and np.array_equal(one, other, equal_nan=True))
