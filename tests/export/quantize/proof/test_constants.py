"""The static proof of an int8 file: right constants pass, and each that is changed is named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from normfold.export.errors import PrecisionLossError
from normfold.export.fold.fold import fold
from normfold.export.onnx_io.model_file import load_model, save_model
from normfold.export.quantize.int8.quantize import quantize_int8
from normfold.export.quantize.int8.result import Int8Result
from normfold.export.quantize.proof.constants import check_constants
from tests.support.onnx_models import classifier, classifier_rows

Change = Callable[[np.ndarray], np.ndarray]


@pytest.fixture(scope="module", params=["statistics", "samples"])
def quantised(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Int8Result]:
    folder, rng = tmp_path_factory.mktemp("quantised"), np.random.default_rng(0)
    source, folded = folder / "net.onnx", folder / "folded.onnx"
    onnx.save(classifier(rng), source)
    model = load_model(source)
    fold(model)
    save_model(model, folded)
    samples = classifier_rows(rng, 64) if request.param == "samples" else None
    return folder / "int8.onnx", quantize_int8(folded, folder / "int8.onnx", unfolded=source, samples=samples)


def changed(path: Path, ending: str, change: Change, folder: Path) -> Path:
    """Return a file with one constant changed: the last whose name ends so."""
    proto = onnx.load(path)
    tensor = [each for each in proto.graph.initializer if each.name.endswith(ending)][-1]
    array = numpy_helper.to_array(tensor).copy()
    tensor.CopyFrom(numpy_helper.from_array(change(array).astype(array.dtype), tensor.name))
    onnx.save(proto, folder / "changed.onnx")
    return folder / "changed.onnx"


def first_changed(change: Change) -> Change:
    def apply(array: np.ndarray) -> np.ndarray:
        array[0] = change(array[0])
        return array

    return apply


def test_right_file_passes(quantised: tuple[Path, Int8Result]) -> None:
    path, result = quantised
    assert {"w0", "w1", "w2"} <= result.constants.keys()
    check_constants(path, result)


def test_values_that_are_always_0_may_have_any_scale(quantised: tuple[Path, Int8Result], tmp_path: Path) -> None:
    path, result = quantised
    name = next(name for name in result.ranges if name != "x")
    always_0 = replace(result, ranges={**result.ranges, name: (0.0, 0.0)})
    check_constants(changed(path, f"{name}_scale", lambda scale: scale * 0 + 1, tmp_path), always_0)


@pytest.mark.parametrize(
    ("ending", "change", "message"),
    [
        ("w1_scale", first_changed(lambda scale: scale * 1.1), "'w1' of the int8 network differs"),
        ("w1_quantized", first_changed(lambda weight: -weight), "'w1' of the int8 network differs"),
        ("w1_quantized", first_changed(lambda weight: weight * 0 + 127), "'w1' of the int8 network differs"),
        ("bias_quantized", first_changed(lambda bias: bias + 5), r"bias' of the int8 network differs .* steps"),
        ("x_scale", lambda scale: scale / 2, "'x_scale' of the int8 network holds numbers from"),
        ("x_scale", lambda scale: scale * 2, "'x_scale' of the int8 network holds numbers from"),
        ("x_zero_point", lambda zero: zero + 9, "'x_scale' of the int8 network holds numbers from"),
    ],
)
def test_changed_constant_is_named(
    quantised: tuple[Path, Int8Result], tmp_path: Path, ending: str, change: Change, message: str
) -> None:
    path, result = quantised
    wrong = changed(path, ending, change, tmp_path)
    with pytest.raises(PrecisionLossError, match=message):
        check_constants(wrong, result)


def test_lost_constant_is_named(quantised: tuple[Path, Int8Result], tmp_path: Path) -> None:
    path, result = quantised
    proto = onnx.load(path)
    for tensor in proto.graph.initializer:
        tensor.name = tensor.name.replace("w1_quantized", "other")
    for node in proto.graph.node:
        node.input[:] = [name.replace("w1_quantized", "other") for name in node.input]
    onnx.save(proto, tmp_path / "lost.onnx")
    with pytest.raises(PrecisionLossError, match="has lost the constant 'w1'"):
        check_constants(tmp_path / "lost.onnx", result)
