"""What ONNX Runtime says of a file: it runs some that onnx's checker does not take, such as deprecated operators."""

from __future__ import annotations

import re
from pathlib import Path


def runtime_fault(model: Path | bytes, otherwise: str = "") -> str | None:
    """Load a model in ONNX Runtime, without running it.

    Args:
        model: a file, or a message.
        otherwise: what to return where ONNX Runtime is not installed.

    Returns:
        Why it cannot be loaded, in one line; None if it can.
    """
    try:
        import onnxruntime
    except ImportError:
        return otherwise
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    try:
        onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # noqa: BLE001 -- it raises many kinds
        return in_one_line(error)
    return None


def in_one_line(error: BaseException) -> str:
    """Return an error's message in one line, without ONNX Runtime's place in its own source."""
    return re.sub(r"(?<=:)\S*/onnxruntime/\S+ .*\) (?=[A-Z])", " ", " ".join(str(error).split()))


def innermost(error: BaseException) -> str:
    """Return the message of the error that caused all others, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split())
