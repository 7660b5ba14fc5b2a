"""The fixture that converts a model to float16 and checks the file that is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest

from normfold.export.quantize.float16.convert import convert_to_float16
from normfold.export.quantize.float16.result import Float16Result

Convert = Callable[..., tuple[onnx.ModelProto, Float16Result]]


@pytest.fixture
def convert(tmp_path: Path) -> Convert:
    """Return a function that converts a model; it returns the file's model, checked by onnx and ONNX Runtime."""

    def run(source: onnx.ModelProto, **options: Any) -> tuple[onnx.ModelProto, Float16Result]:
        onnx.save(source, tmp_path / "source.onnx")
        target = tmp_path / "float16.onnx"
        report = convert_to_float16(tmp_path / "source.onnx", target, **options)
        result = onnx.load(target)
        onnx.checker.check_model(result, full_check=True)
        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = 3
        onnxruntime.InferenceSession(target, settings, providers=["CPUExecutionProvider"])
        return result, report

    return run
